// All clusters: filtered by the server, a page at a time.

import { ask } from "./api.js";
import { el, number, since, state, table } from "./dom.js";
import { loads, sparkline } from "./load.js";

const PAGE_SIZE = 100;
/** Clusters that each further page has. */
const NEXT_PAGE_SIZE = 500;
/** Pages that are read again at each refresh; those behind them stay as they were. */
const REFRESHED_PAGES = 2;
const COLUMNS = ["Cluster", "State", "Connected for", "Reads and writes", "agentk", "Kubernetes", "Pods", "Replicas", "Project"];

/** The view, of clusters in this state or of all; `signal` ends what it waits for. */
export function clusters(signal, chosen = "") {
  const list = table("Clusters", COLUMNS, []);
  const count = el("p", { class: "muted", role: "status" });
  const empty = el("p", { class: "empty", hidden: true });
  const more = el("button", { type: "button", hidden: true, click: () => loadMore() }, "Show more");
  const name = el("input", { type: "search", id: "filter", placeholder: "part of a name", autocomplete: "off", maxlength: "100", input: () => change() });
  const which = el("select", { change: () => change() },
    el("option", { value: "" }, "all"), el("option", { value: "disconnected" }, "not connected"), el("option", { value: "degraded" }, "degraded"),
    el("option", { value: "healthy" }, "healthy"), el("option", { value: "connected" }, "connected"), el("option", { value: "unknown" }, "not known"));
  const label = el("input", { type: "text", placeholder: "version=v17.1.0", autocomplete: "off", maxlength: "200", input: () => change() });
  which.value = chosen;
  // Each with its rows, and where the next one begins.
  let pages = [];
  let asked = 0;
  let waiting;

  function change() {
    clearTimeout(waiting);
    waiting = setTimeout(() => { pages = []; refresh().catch(fail); }, 200);
  }

  function fail(error) {
    if (error.name === "AbortError") return;
    empty.textContent = `Cannot list clusters: ${error.message}`;
    empty.hidden = false;
  }

  /** Reads the page that begins at `token`; nothing if another question has been asked meanwhile. */
  async function page(mine, query, token) {
    const size = token ? NEXT_PAGE_SIZE : PAGE_SIZE;
    const answer = await ask("agents", { ...query, page_size: size, page_token: token }, signal);
    if (mine !== asked) return undefined;
    const load = await loads(answer.agents.map((agent) => agent.id), signal);
    if (mine !== asked) return undefined;
    return { rows: answer.agents.map((agent) => list.row(row(agent, load.get(agent.id)))), next: answer.next_page_token, total: answer.total };
  }

  /** Reads the first pages again, or the one behind the last. */
  async function load(again) {
    const mine = ++asked;
    const query = { state: which.value, name: name.value.trim(), label: label.value.trim() };
    const wanted = again ? Math.max(1, Math.min(pages.length, REFRESHED_PAGES)) : 1;
    let at = again ? 0 : pages.length;
    for (const end = at + wanted; at < end; at++) {
      const token = at === 0 ? "" : pages[at - 1].next;
      const read = await page(mine, query, token);
      if (!read) return;
      pages[at] = read;
      if (!read.next) {
        pages.length = at + 1;
        break;
      }
    }
    show(query);
  }

  async function loadMore() {
    more.disabled = true;
    try {
      await load(false);
    } catch (error) {
      fail(error);
    }
    more.disabled = false;
  }

  function show(query) {
    const rows = pages.flatMap((it) => it.rows);
    const { total } = pages[0];
    list.show(rows);
    count.textContent = rows.length < total ? `${number(rows.length)} of ${number(total)}` : `${number(total)} in all`;
    more.hidden = !pages.at(-1).next;
    empty.hidden = rows.length > 0;
    empty.textContent = query.name || query.label || query.state
      ? "No cluster matches." : "No cluster yet: add one, and agentk connects with its token.";
  }

  // A page that somebody waits for is not given up for a refresh.
  const refresh = async () => more.disabled || load(true);
  const view = el("section", {},
    el("h2", {}, "Clusters"),
    el("div", { class: "tools" },
      el("label", {}, "Name", name), el("label", {}, "State", which), el("label", {}, "Label", label), count, el("a", { class: "button", href: "#/add" }, "Add a cluster")),
    list, empty, el("div", { class: "more" }, more));
  return { view, refresh };
}

function row(agent, load) {
  const versions = (key) => [...new Set(agent.processes.map((it) => it[key]).filter(Boolean))].join(", ");
  return {
    href: `#/clusters/${agent.id}`,
    cells: [
      agent.name || `agent ${agent.id}`,
      agentState(agent),
      since(agent.connected_since),
      load ? sparkline(load) : "",
      versions("version"),
      versions("kubernetes"),
      agent.process_count > 0 ? number(agent.process_count) : "",
      agent.replicas.length > 0 ? number(agent.replicas.length) : "",
      agent.project,
    ],
  };
}

/** The state of an agent in words. */
export function agentState(agent) {
  if (agent.state === "unknown") return state("warn", "not connected to this replica");
  if (agent.state === "connected") {
    const [problem, ...others] = agent.problems || [];
    if (!problem) return state("good", agent.health || "connected");
    const more = others.length > 0 ? ` (and ${number(others.length)} more)` : "";
    const made = state("warn", `degraded: ${problem}${more}`);
    made.setAttribute("title", agent.problems.join("; "));
    return made;
  }
  const { state: its, at, reason } = agent.absence || {};
  if (its === "never connected") return state("warn", its);
  const words = its === "refused" ? "refused: " : its === "down" && at ? "down for " : "not connected";
  const made = state("bad", words);
  if (its === "refused") made.append(reason || "see its records");
  else if (its === "down" && at) made.append(since(at));
  if (its === "down" && reason) made.setAttribute("title", reason);
  return made;
}
