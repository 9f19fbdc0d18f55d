// Chooses the view by the address, keeps it fresh, and listens to the keyboard.

import { access } from "./access.js";
import { add } from "./add.js";
import { Refused, ask, signIn, whoami } from "./api.js";
import { cluster } from "./cluster.js";
import { clusters } from "./clusters.js";
import { el } from "./dom.js";
import { showHeadline } from "./headline.js";
import { replicas } from "./replicas.js";
import { requests } from "./requests.js";
import { sessions } from "./sessions.js";

/** What the address names, besides clusters. */
const VIEWS = { add, sessions, access, replicas, requests };
/** Milliseconds between refreshes. */
const INTERVAL = 5_000;

const main = document.getElementById("main");
const problem = document.getElementById("problem");
const freshness = document.getElementById("freshness");
/** Where j and k stop in a row. */
const STOP = "a, button";
let current;

function route() {
  current?.abort.abort();
  const [, view = "", argument = ""] = location.hash.split("/");
  const abort = new AbortController();
  const made = make(view, argument, abort.signal);
  current = { ...made, abort, named: view };
  main.replaceChildren(made.view);
  for (const link of document.querySelectorAll("nav a")) {
    const own = Object.hasOwn(VIEWS, view) && view !== "add" ? `#/${view}` : "#/";
    if (link.getAttribute("href") === own) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  refresh();
}

function make(view, argument, signal) {
  if (view === "") return clusters(signal);
  if (["disconnected", "degraded"].includes(view)) return clusters(signal, view);
  if (view === "clusters" && argument) return cluster(signal, decode(argument));
  const named = Object.hasOwn(VIEWS, view) && VIEWS[view];
  if (named) return named(signal);
  return { view: el("p", {}, "There is no such view. ", el("a", { href: "#/" }, "All clusters")), refresh: async () => {} };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

let refreshing = false;
let again = false;

async function refresh() {
  if (refreshing) {
    again = true;
    return;
  }
  refreshing = true;
  do {
    again = false;
    await refreshOnce(current);
  } while (again);
  refreshing = false;
}

async function refreshOnce(shown) {
  const focused = main.contains(document.activeElement) && anchor(document.activeElement);
  try {
    const [status, me] = await Promise.all([ask("status"), whoami(), shown.refresh()]);
    // Rows are made anew: whoever stands on a link stays there.
    if (focused && document.activeElement === document.body) {
      main.querySelector(focused)?.focus({ preventScroll: true });
    }
    showHeadline(document.getElementById("headline"), status);
    document.getElementById("whoami").textContent = `${me.name}: ${me.role}`;
    tell(status.coverage);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error instanceof Refused && error.status === 401) {
      await signIn(error.message);
      again = true;
      return;
    }
    const words = error instanceof Refused ? error.message : "This replica does not answer; what is shown may be old.";
    show(words);
  }
}

/** How an element is found again when its row was made anew. */
function anchor(element) {
  const named = ["href", "data-id"].find((it) => element.hasAttribute(it));
  return named && `[${named}="${CSS.escape(element.getAttribute(named))}"]`;
}

/** What of the set an answer is not about, by its scope. */
const LACKING = {
  partial: (why) => `Not all of this is known: ${why}`,
  replica: (why, replica) => `Replica ${replica} tells: ${why}`,
  none: (why) => `What is connected is not known: ${why}`,
};

function tell({ complete, problem: why, as_of: asOf, replica, scope }) {
  const lacking = LACKING[scope] || LACKING.partial;
  show(complete ? "" : lacking(why, replica));
  const time = new Date(asOf);
  const words = Number.isNaN(time.getTime()) ? "" : `as of ${time.toLocaleTimeString()}`;
  freshness.textContent = words;
}

function show(words) {
  problem.textContent = words;
  problem.hidden = !words;
}

function rows() {
  return [...main.querySelectorAll("tbody tr")].filter((row) => row.querySelector(STOP));
}

function choose(step) {
  const all = rows();
  if (all.length === 0) return;
  const at = all.findIndex((row) => row.contains(document.activeElement));
  const next = all[Math.min(Math.max(at + step, 0), all.length - 1)];
  next.querySelector(STOP).focus();
  next.scrollIntoView({ block: "nearest" });
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (location.hash.length > 2) location.hash = "#/";
  } else if (!typing && event.key === "/") {
    const filter = document.getElementById("filter");
    if (!filter) return;
    event.preventDefault();
    filter.focus();
  } else if (!typing && (event.key === "j" || event.key === "k")) {
    choose(event.key === "j" ? 1 : -1);
  }
});

addEventListener("hashchange", () => {
  // The skip link leads to an element, not to a view.
  if (location.hash === "#main") return main.focus();
  route();
  main.focus({ preventScroll: true });
});

setInterval(() => {
  if (document.visibilityState === "visible") refresh();
}, INTERVAL);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") refresh();
});
route();
