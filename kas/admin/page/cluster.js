// One cluster: its processes, where a request would go, and what is in progress.

import { ruleTable, whyForm } from "./access.js";
import { agentPath, ask } from "./api.js";
import { agentState } from "./clusters.js";
import { credentials } from "./credentials.js";
import { duration, el, facts, number, replicaId, since, state, table } from "./dom.js";
import { loads, sparkline } from "./load.js";
import { requestTable } from "./requests.js";
import { timeline } from "./timeline.js";

/** The view of the agent with this number or name. */
export function cluster(signal, id) {
  // Parts that are made anew with each answer, and between them what somebody types into.
  const [head, access, rest] = [el("div"), el("div"), el("div")];
  head.append(el("p", { class: "muted" }, "Asking all replicas…"));
  const why = whyForm(signal, id);
  why.hidden = true;
  const keys = credentials(signal, id);
  keys.view.hidden = true;

  async function refresh() {
    const path = agentPath(id);
    // The rest is shown all the same by a replica of an older version, which has none.
    const lastErrors = ask(`${path}/errors`, {}, signal).catch(() => ({ errors: [] }));
    const [told, explained, history, allowed] = await Promise.all(
      [path, `${path}/explain`, `${path}/records`, `${path}/access`].map((it) => ask(it, {}, signal)));
    const errors = await lastErrors;
    const [running, load] = await Promise.all(
      [ask("requests", { agent_id: told.agent.id }, signal), loads([told.agent.id], signal)]);
    head.replaceChildren(...about(told, explained, history, load.get(told.agent.id)));
    access.replaceChildren(...mayUse(allowed));
    why.hidden = allowed.decided_by !== "standalone";
    rest.replaceChildren(...lately(running, errors, history));
    keys.view.hidden = false;
    await keys.refresh(told.agent);
  }
  return { view: el("section", { "aria-live": "off" }, head, keys.view, access, why, rest), refresh };
}

function about({ agent, last_seen_seconds: seen, cluster: uid }, explained, history, load) {
  const name = agent.name || `agent ${agent.id}`;
  return [
    el("p", {}, el("a", { href: "#/" }, "← All clusters")),
    el("h2", {}, name),
    facts([
      ["State", agentState(agent)],
      agent.state === "connected" ? ["Connected for", since(agent.connected_since)] : ["Last seen", lastSeen(seen)],
      ["Reads and writes", load ? sparkline(load) : "none in half an hour"],
      ["Number", String(agent.id)],
      ["Project", agent.project || "none"],
      ["Pinned to", uid ? el("code", {}, uid) : "no cluster"],
    ]),
    el("h2", {}, "A request for it now"),
    el("p", {}, state(explained.routable ? "good" : "bad", explained.verdict)),
    wrong(agent),
    candidates(explained),
    el("h2", {}, `Connections: ${number(agent.process_count)} ${agent.process_count === 1 ? "pod" : "pods"}`),
    agent.processes.length > 0 ? processes(agent) : el("p", { class: "muted" }, "None is connected."),
    el("h2", {}, "The last seven days"),
    timeline(history.records, agent.connected_since),
  ].filter(Boolean);
}

/** What is wrong with a cluster that is connected. */
// An older replica tells of none.
function wrong({ problems = [] }) {
  if (problems.length === 0) return "";
  return el("div", {}, el("h2", {}, "What is wrong with it"), el("ul", {}, problems.map((it) => el("li", {}, it))));
}

function mayUse({ decided_by: by, explanation, rules, rules_total: total }) {
  const more = rules.length < total ? ` (${number(rules.length)} of ${number(total)} rules)` : "";
  return [
    el("h2", {}, `Who may use it, and as whom${more}`),
    el("p", { class: "muted" }, explanation),
    by === "standalone" ? ruleTable(rules) : "",
  ].filter(Boolean);
}

function lately(running, errors, history) {
  return [
    el("h2", {}, `Requests in progress (${number(running.total)})`),
    requestTable(running.requests, false),
    el("h2", {}, "Last errors"),
    failed(errors),
    el("h2", {}, "What happened"),
    happened(history.records),
  ];
}

function failed({ errors, coverage }) {
  if (errors.length === 0) {
    const words = coverage?.complete ? "No errors are known." : "No errors are known to the replicas that have told of them.";
    return el("p", { class: "muted" }, words);
  }
  const rows = errors.map((it) => ({
    cells: [
      el("time", { datetime: it.at }, new Date(it.at).toLocaleString()),
      state("bad", it.status === 0 ? "no answer" : `${it.status}${it.cut ? ", cut short" : ""}`),
      [it.verb, " ", el("code", {}, it.path)],
      [it.reason || "the cluster answered so", leftOut(it)],
      it.caller,
      replicaId(it.replica),
    ],
  }));
  return table("Last errors", ["When", "Status", "Request", "Why", "Caller", "Replica"], rows);
}

function leftOut(it) {
  return it.left_out > 0 ? el("div", { class: "muted" }, `and ${number(it.left_out)} like it`) : "";
}

const EVENTS = { connected: "good", disconnected: "warn", refused: "bad" };

function happened(records) {
  if (records.length === 0) return el("p", { class: "muted" }, "Nothing is recorded.");
  const rows = records.map((it) => ({
    cells: [
      el("time", { datetime: it.at }, new Date(it.at).toLocaleString()),
      state(EVENTS[it.event] || "warn", it.event),
      [it.reason, leftOut(it)],
      it.duration_milliseconds === undefined || it.duration_milliseconds === null ? "" : duration(it.duration_milliseconds / 1000),
      [it.instance, " ", it.version],
      [it.scheme, " ", el("span", { class: "id" }, it.remote_addr)],
      it.replica ? replicaId(it.replica) : "",
    ],
  }));
  return table("What happened", ["When", "Event", "Why", "After", "Process", "From", "Replica"], rows);
}

function lastSeen(seconds) {
  return seconds === undefined || seconds === null ? "never, as far as is known" : `${duration(seconds)} ago`;
}

function candidates({ candidates: all, authoritative }) {
  if (all.length === 0) return el("p", { class: "muted" }, "No replica has a tunnel of it.");
  const items = all.map(({ replica, why, tunnels, problem }) => el("li", {},
    replicaId(replica), ` — ${why}`,
    tunnels ? `: ${number(tunnels.idle)} of ${number(tunnels.alive)} tunnels are free` : "",
    problem ? el("span", { class: "warn" }, ` (${problem})`) : ""));
  return el("div", {},
    el("p", { class: "muted" }, authoritative
      ? "Replicas are asked in this order:" : "The routing table is not sure, so that all live replicas are asked, in this order:"),
    el("ol", { class: "where" }, items));
}

function processes(agent) {
  const rows = agent.processes.map((it) => ({
    cells: [it.pod || "not told", it.version, it.kubernetes, since(it.connected_since), it.replicas.map((replica) => el("div", {}, replicaId(replica)))],
  }));
  return table("Processes", ["Pod", "agentk", "Kubernetes", "Connected for", "Replicas"], rows);
}
