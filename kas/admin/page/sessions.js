// What users have open, the oldest first: filtered by the server, and ended one by one.

import { ask, end, missing } from "./api.js";
import { confirmed } from "./dialogs.js";
import { el, number, replicaId, since, table } from "./dom.js";

const PAGE_SIZE = 200;
const KINDS = ["exec", "attach", "port-forward", "logs", "watch", "watch-aggregator", "graph", "proxy"];
const COLUMNS = ["Caller", "Kind", "Cluster", "For", "What", "From", "Replica", "End"];

/** The view; `signal` ends what it waits for. */
export function sessions(signal) {
  const title = el("h2", {}, "Sessions");
  const told = el("p", { class: "muted", role: "status" });
  const list = table("Sessions", COLUMNS, []);
  const empty = el("p", { class: "empty", hidden: true });
  const notAllowed = el("p", { class: "muted" });
  const user = el("input", { type: "search", id: "filter", placeholder: "alice", autocomplete: "off", maxlength: "200", input: () => change() });
  const agent = el("input", { type: "search", placeholder: "name or number", autocomplete: "off", maxlength: "200", input: () => change() });
  const kind = el("select", { change: () => change() }, el("option", { value: "" }, "all"), KINDS.map((it) => el("option", { value: it }, it)));
  let waiting;
  let asked = 0;
  let why = "";

  function change() {
    clearTimeout(waiting);
    waiting = setTimeout(() => refresh().catch((error) => error.name !== "AbortError" && show([], error.message)), 200);
  }

  async function refresh() {
    const mine = ++asked;
    const query = { user: user.value.trim(), agent: agent.value.trim(), kind: kind.value, page_size: PAGE_SIZE };
    let answer;
    try {
      [answer, why] = await Promise.all([ask("sessions", query, signal), missing("operator")]);
    } catch (error) {
      // A name that is being typed is no agent's yet.
      if (mine === asked && (error.status === 404 || error.status === 400)) return show([], error.message);
      throw error;
    }
    if (mine !== asked) return;
    const shown = answer.sessions.length;
    title.textContent = `Sessions (${number(answer.total)}${shown < answer.total ? `, the oldest ${number(shown)}` : ""})`;
    show(answer.sessions, query.user || query.agent || query.kind ? "No session matches." : "Nobody has anything open.");
  }

  function show(all, words) {
    list.fill(all.map((session) => row(session, why, () => finish(session))));
    notAllowed.textContent = why && `Sessions are not ended here: ${why}.`;
    empty.textContent = words;
    empty.hidden = all.length > 0;
  }

  async function finish(session) {
    if (!(await confirmed(confirmation(session)))) return;
    try {
      await end(`sessions/${encodeURIComponent(session.id)}`);
      told.textContent = `Ended ${session.kind} of ${session.caller}.`;
    } catch (error) {
      told.textContent = `Not ended: ${error.message}`;
    }
    await refresh().catch(() => {});
    list.focus();
  }

  const view = el("section", {}, title,
    el("div", { class: "tools" },
      el("label", {}, "User", user), el("label", {}, "Cluster", agent), el("label", {}, "Kind", kind), told),
    notAllowed, list, empty);
  return { view, refresh };
}

function row(it, why, finish) {
  const named = it.agent.name || `agent ${it.agent.id}`;
  const button = el("button", {
    type: "button", class: "danger small", "data-id": it.id, click: finish, disabled: Boolean(why),
    "aria-label": `End ${it.kind} of ${it.caller} at ${named}`,
  }, "End");
  return {
    cells: [it.caller, it.kind, el("a", { href: `#/clusters/${it.agent.id}` }, named), since(it.started_at),
      el("code", { title: it.request_id ? `request ${it.request_id}` : false }, it.path), it.remote_addr,
      replicaId(it.replica), button],
  };
}

const confirmation = ({ kind, caller, agent, path }) => ({
  title: `End this ${kind}?`,
  what: `${caller} has it open at ${agent.name || `agent ${agent.id}`} (${path}). They are told that an operator ended it, and may begin another.`,
  yes: "End it",
});
