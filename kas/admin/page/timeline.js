// When a cluster was connected, as far as its records tell: a bar of the last seven days.

import { duration, el } from "./dom.js";

const DAYS = 7;
const WIDTH = 1000;
const HEIGHT = 28;
const WORDS = { up: "connected", down: "not connected", unknown: "not known" };

/** A bar by the records, and by since when the cluster is connected, if it is now. */
export function timeline(records, connectedSince) {
  const end = Date.now();
  const begin = end - DAYS * 86_400_000;
  const spans = spansOf(records, connectedSince, end).map((it) => ({ ...it, from: Math.max(it.from, begin) })).filter((it) => it.to > it.from);
  const refusals = records.filter((it) => it.event === "refused" && Date.parse(it.at) >= begin);
  const x = (at) => (WIDTH * (at - begin)) / (end - begin);
  const bars = spans.map(({ kind, from, to }) => shape("rect", {
    class: kind, x: x(from), y: 0, width: Math.max(x(to) - x(from), 1), height: HEIGHT,
  }, `${WORDS[kind]} from ${new Date(from).toLocaleString()} to ${new Date(to).toLocaleString()}`));
  const marks = refusals.map((it) => shape("path", {
    class: "refusal", d: `M${x(Date.parse(it.at))} ${HEIGHT} l-5 8 h10 z`,
  }, `refused at ${new Date(it.at).toLocaleString()}: ${it.reason}`));
  const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 10}`, preserveAspectRatio: "none", role: "img", "aria-label": words(spans, refusals) });
  picture.append(...bars, ...marks);
  return el("figure", { class: "timeline" }, picture,
    el("figcaption", {},
      el("span", {}, `${DAYS} days ago`),
      el("span", { class: "key up" }, WORDS.up), el("span", { class: "key down" }, WORDS.down), el("span", { class: "key unknown" }, WORDS.unknown),
      el("span", {}, "now")));
}

/**
 * Stretches of one kind, the oldest first. A process that has gone tells how long it was there; what lies between is
 * without one, and nothing is known of what was before the oldest record.
 */
function spansOf(records, connectedSince, end) {
  const up = records.filter((it) => it.event === "disconnected").map((it) => {
    const to = Date.parse(it.at);
    return { kind: "up", from: to - (it.duration_milliseconds ?? 0), to };
  });
  if (connectedSince) up.push({ kind: "up", from: Date.parse(connectedSince), to: end });
  up.sort((a, b) => a.from - b.from);
  const known = Math.min(end, ...up.map((it) => it.from), ...records.map((it) => Date.parse(it.at)));
  const spans = [{ kind: "unknown", from: -Infinity, to: known }];
  let at = known;
  for (const { from, to } of up) {
    if (from > at) spans.push({ kind: "down", from: at, to: from });
    if (to > at) spans.push({ kind: "up", from: Math.max(from, at), to });
    at = Math.max(at, to);
  }
  if (at < end) spans.push({ kind: "down", from: at, to: end });
  return spans;
}

function words(spans, refusals) {
  const sum = (kind) => spans.filter((it) => it.kind === kind).reduce((all, it) => all + it.to - it.from, 0) / 1000;
  const parts = Object.entries(WORDS).map(([kind, word]) => [sum(kind), word]).filter(([time]) => time >= 1);
  const told = parts.map(([time, word]) => `${word} for ${duration(time)}`).join(", ");
  return `The last ${DAYS} days: ${told || "nothing is known"}; ${refusals.length} refusals are recorded.`;
}

function shape(name, attributes, title) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (title) {
    const told = document.createElementNS("http://www.w3.org/2000/svg", "title");
    told.textContent = title;
    made.append(told);
  }
  return made;
}
