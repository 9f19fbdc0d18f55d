// Makes elements. Whatever comes from elsewhere becomes text, never markup.

/** An element with attributes (functions listen to events) and children. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== false && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((it) => it !== undefined && it !== null && it !== ""));
  return made;
}

// Each state has a shape of its own: colour alone tells nobody who does not see it.
const SHAPES = {
  good: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zM6.8 11.2 3.9 8.3l1.1-1.1 1.8 1.8 4.2-4.2 1.1 1.1z",
  bad: "M5 1h6l4 4v6l-4 4H5l-4-4V5zM7.2 4v5h1.6V4zM7.2 10.4V12h1.6v-1.6z",
  warn: "M8 1 15.5 14.5H.5zM7.2 6v4h1.6V6zM7.2 11v1.6h1.6V11z",
};

/** A state in words, with its shape. `kind` is good, bad or warn. */
export function state(kind, words) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[kind]);
  path.setAttribute("fill-rule", "evenodd");
  svg.append(path);
  return el("span", { class: `state ${kind}` }, svg, words);
}

/**
 * A table with a name for those who do not see it. `columns` are texts; a row has cells, which are elements'
 * contents, and perhaps the address that its first one leads to. It can `fill` itself anew, or make a `row` to `show`.
 */
export function table(caption, columns, rows) {
  const head = el("tr", {}, columns.map((column) => el("th", { scope: "col" }, column)));
  const body = el("tbody");
  const made = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", { "aria-label": caption }, el("thead", {}, head), body));
  made.row = (row) => tableRow(columns, row);
  made.show = (shown) => body.replaceChildren(...shown);
  made.fill = (all) => made.show(all.map(made.row));
  made.fill(rows);
  return made;
}

function tableRow(columns, { cells, href }) {
  const [first, ...others] = cells;
  const title = href ? el("a", { href }, first) : first;
  return el("tr", {},
    el("th", { scope: "row" }, title),
    others.map((cell, index) => el("td", { "data-column": cell === "" ? false : columns[index + 1] }, cell)));
}

/** Letters of a replica's id that are shown. */
const SHOWN_ID = 10;

/** A replica's id, whose beginning tells it from others; the whole of it is its title. */
export function replicaId(id) {
  const shown = id.length > SHOWN_ID + 2 ? `${id.slice(0, SHOWN_ID)}…` : id;
  return el("code", { class: "id", title: id }, shown);
}

/** A list of facts: pairs of a name and a value, or triples with a class. */
export function facts(pairs) {
  return el("dl", { class: "facts" },
    pairs.map(([name, value, kind]) => el("div", { class: kind || false }, el("dt", {}, name), el("dd", {}, value))));
}

const NUMBERS = new Intl.NumberFormat("en");

/** 12,345 */
export const number = (value) => NUMBERS.format(value);

const UNITS = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];

/** Seconds in the largest two units: `3 d 4 h`. */
export function duration(seconds) {
  const parts = [];
  let left = Math.max(0, Math.floor(seconds));
  for (const [unit, size] of UNITS) {
    const count = Math.floor(left / size);
    left -= count * size;
    if (count > 0) parts.push(`${count} ${unit}`);
    if (parts.length === 2) break;
  }
  return parts.join(" ") || "0 s";
}

/** How long ago an instant of RFC 3339 is, as an element that names the instant. */
export function since(instant) {
  if (!instant) return "";
  const seconds = (Date.now() - Date.parse(instant)) / 1000;
  return el("time", { datetime: instant, title: instant }, duration(seconds));
}
