// What changes, as the replica tells it: server-sent events, read by fetch, which sends the token in a header.

import { open } from "./api.js";

/** Milliseconds until a stream that ended is opened again. */
const PAUSE = 3_000;

/** Calls `heard` for each event until `signal` ends it. What came meanwhile when a stream was away is not told. */
export async function listen(signal, heard) {
  while (!signal.aborted) {
    try {
      for await (const event of eventsOf(await open("events", signal))) heard(event);
    } catch {
      // It is opened again; a replica that stays away is told by what the view asks besides.
    }
    await new Promise((over) => {
      setTimeout(over, PAUSE);
      signal.addEventListener("abort", over, { once: true });
    });
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (left + value).split("\n\n");
    left = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice("data: ".length));
    }
  }
}
