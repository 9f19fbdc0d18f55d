// One cluster: its processes, where a request would go, and what is in progress.

import { agentPath, ask } from "./api.js";
import { agentState } from "./clusters.js";
import { duration, el, facts, number, since, state, table } from "./dom.js";
import { requestTable } from "./requests.js";

/** The view of the agent with this number or name. */
export function cluster(signal, id) {
  const view = el("section", { "aria-live": "off" }, el("p", { class: "muted" }, "Asking all replicas…"));

  async function refresh() {
    const [told, explained] = await Promise.all([
      ask(agentPath(id), {}, signal), ask(`${agentPath(id)}/explain`, {}, signal)]);
    const running = await ask("requests", { agent_id: told.agent.id }, signal);
    view.replaceChildren(...show(told, explained, running));
  }
  return { view, refresh };
}

function show({ agent, last_seen_seconds: seen }, explained, running) {
  const name = agent.name || `agent ${agent.id}`;
  return [
    el("p", {}, el("a", { href: "#/" }, "← All clusters")),
    el("h2", {}, name),
    facts([
      ["State", agentState(agent)],
      agent.state === "connected" ? ["Connected for", since(agent.connected_since)] : ["Last seen", lastSeen(seen)],
      ["Number", String(agent.id)],
      ["Project", agent.project || "none"],
    ]),
    el("h2", {}, "A request for it now"),
    el("p", {}, state(explained.routable ? "good" : "bad", explained.verdict)),
    candidates(explained),
    el("h2", {}, `Processes (${number(agent.process_count)})`),
    agent.processes.length > 0 ? processes(agent) : el("p", { class: "muted" }, "None is connected."),
    el("h2", {}, `Requests in progress (${number(running.total)})`),
    requestTable(running.requests, false),
  ];
}

function lastSeen(seconds) {
  return seconds === undefined || seconds === null ? "never, as far as is known" : `${duration(seconds)} ago`;
}

function candidates({ candidates: all, authoritative }) {
  if (all.length === 0) return el("p", { class: "muted" }, "No replica has a tunnel of it.");
  const items = all.map(({ replica, why, tunnels, problem }) => el("li", {},
    el("code", {}, replica), ` — ${why}`,
    tunnels ? `: ${number(tunnels.idle)} of ${number(tunnels.alive)} tunnels are free` : "",
    problem ? el("span", { class: "warn" }, ` (${problem})`) : ""));
  return el("div", {},
    el("p", { class: "muted" }, authoritative
      ? "Replicas are asked in this order:" : "The routing table is not sure, so that all live replicas are asked, in this order:"),
    el("ol", { class: "where" }, items));
}

function processes(agent) {
  const rows = agent.processes.map((it) => ({
    cells: [it.pod || "not told", it.version, it.kubernetes, since(it.connected_since), it.replicas.map((replica) => el("div", {}, el("code", {}, replica)))],
  }));
  return table("Processes", ["Pod", "agentk", "Kubernetes", "Connected for", "Replicas"], rows);
}
