// Requests of users that are in progress, the oldest first.

import { ask } from "./api.js";
import { el, number, replicaId, since, table } from "./dom.js";

/** The view. */
export function requests(signal) {
  const title = el("h2", {}, "Requests in progress");
  const place = el("div");
  async function refresh() {
    const answer = await ask("requests", {}, signal);
    const shown = answer.requests.length;
    title.textContent = `Requests in progress (${number(answer.total)}${shown < answer.total ? `, the oldest ${number(shown)}` : ""})`;
    place.replaceChildren(requestTable(answer.requests, true));
  }
  return { view: el("section", {}, title, place), refresh };
}

/** A table of requests, with their clusters or without. */
export function requestTable(all, withCluster) {
  if (all.length === 0) return el("p", { class: "muted" }, "None at this moment.");
  const columns = ["Caller", "Cluster", "Request", "For", "From", "Replica", "Id"].filter((it) => withCluster || it !== "Cluster");
  const rows = all.map((it) => {
    const named = it.agent ? it.agent.name || `agent ${it.agent.id}` : "";
    const where = it.agent ? el("a", { href: `#/clusters/${it.agent.id}` }, named) : "";
    const cells = [it.caller, where, el("code", {}, `${it.verb} ${it.path}`), since(it.started_at), it.remote_addr, replicaId(it.replica), el("code", {}, it.id)];
    return { cells: withCluster ? cells : cells.filter((_, index) => index !== 1) };
  });
  return table("Requests in progress", columns, rows);
}
