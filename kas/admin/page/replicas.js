// The replicas of the set.

import { ask } from "./api.js";
import { el, number, since, state, table } from "./dom.js";

const COLUMNS = ["Replica", "State", "Version", "Up for", "Clusters", "Tunnels free", "In progress", "Requests", "Failed", "Routing store", "URL"];
const KINDS = { serving: "good", draining: "warn" };

/** The view. */
export function replicas(signal) {
  const list = table("Replicas", COLUMNS, []);
  async function refresh() {
    const { replicas: all } = await ask("replicas", {}, signal);
    list.fill(all.map(row));
  }
  return { view: el("section", {}, el("h2", {}, "Replicas"), list), refresh };
}

function row({ id, url, state: its, version, answering, details, problem }) {
  const told = details || {};
  const numbers = [told.agents, told.tunnels && `${number(told.tunnels.idle)} of ${number(told.tunnels.alive)}`,
    told.requests_in_progress, told.requests_total, told.requests_failed];
  const shown = numbers.map((it) => (typeof it === "number" ? number(it) : it ?? ""));
  const words = [state(KINDS[its] || "bad", its), problem ? el("div", { class: "warn" }, problem) : ""];
  return {
    cells: [[el("code", {}, id), answering ? el("div", { class: "muted" }, "answers this page") : ""], words, version,
      since(told.started_at), ...shown, told.store ?? "", url],
  };
}
