// How many requests a cluster had in the last half hour, and how long they took, as a line.

import { ask } from "./api.js";
import { el, number } from "./dom.js";

const WIDTH = 90;
const HEIGHT = 22;
/** Clusters of one question. */
const AT_ONCE = 500;

/** The loads of clusters by their numbers, of those that had requests; nothing of them if they cannot be told. */
export async function loads(ids, signal) {
  const all = new Map();
  try {
    for (let at = 0; at < ids.length; at += AT_ONCE) {
      const answer = await ask("loads", { agents: ids.slice(at, at + AT_ONCE).join(",") }, signal);
      for (const load of answer.loads) all.set(load.agent_id, load);
    }
  } catch (error) {
    // The view is of use without them; whoever has to sign in is asked by its own questions.
    if (error.name === "AbortError") throw error;
  }
  return all;
}

/** A line of requests by the minute, with the last minute that had any in words. */
export function sparkline(load) {
  const told = el("span", { class: "load" });
  const last = load?.requests.findLastIndex((it) => it > 0) ?? -1;
  if (last < 0) return told;
  const { requests, p99_milliseconds: durations } = load;
  const most = Math.max(...requests);
  const x = (at) => (WIDTH * at) / (requests.length - 1);
  const y = (count) => HEIGHT - 1 - ((HEIGHT - 2) * count) / most;
  const line = shape("polyline", { points: requests.map((count, at) => `${x(at).toFixed(1)},${y(count).toFixed(1)}`).join(" ") });
  const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Requests by the minute in the last ${requests.length} minutes: at most ${number(most)}, ${number(requests.at(-1))} in the last one` });
  picture.append(line);
  const ago = requests.length - 1 - last;
  told.append(picture, el("small", {}, `${number(requests[last])}/min, p99 ${milliseconds(durations[last])}${ago > 0 ? `, ${ago} min ago` : ""}`));
  return told;
}

const milliseconds = (value) => (value >= 1000 ? `${(value / 1000).toFixed(1)} s` : `${number(value)} ms`);

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
