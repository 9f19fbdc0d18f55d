// The replicas of the set.

import { ask } from "./api.js";
import { el, facts, number, replicaId, since, state, table } from "./dom.js";

const COLUMNS = ["Replica", "State", "Version", "Up for", "Clusters", "Tunnels free", "In progress", "Requests", "Failed", "Cuts survived", "Certificate", "Routing store", "URL"];
const KINDS = { serving: "good", draining: "warn" };

/** The view. */
export function replicas(signal) {
  const list = table("Replicas", COLUMNS, []);
  list.classList.add("dense");
  const lately = el("div");
  async function refresh() {
    const { replicas: all } = await ask("replicas", {}, signal);
    list.fill(all.map(row));
    lately.replaceChildren(facts(total(all)));
  }
  return { view: el("section", {}, el("h2", {}, "Replicas"), list,
    el("h2", {}, "Failures survived"), el("p", { class: "muted" }, "What broke in the last hour, or since the replicas started, and cost no request."), lately), refresh };
}

function row({ id, url, state: its, version, answering, details, problem }) {
  const told = details || {};
  const numbers = [told.agents, told.tunnels && `${number(told.tunnels.idle)} of ${number(told.tunnels.alive)}`,
    told.requests_in_progress, told.requests_total, told.requests_failed];
  const shown = numbers.map((it) => (typeof it === "number" ? number(it) : it ?? ""));
  const words = [state(KINDS[its] || "bad", its), problem ? el("div", { class: "warn" }, problem) : "",
    told.waiting ? el("div", { class: "muted" }, waitsFor(told.waiting)) : ""];
  return {
    cells: [[replicaId(id), answering ? el("div", { class: "muted" }, "answers this page") : ""], words, version,
      since(told.started_at), ...shown, survived(told.survived), ends(told.certificates), told.store ?? "", url],
  };
}

/** What a replica that leaves waits for. */
function waitsFor({ agents, users, peers, gitlab }) {
  const all = [[agents, "clusters"], [users, "connections and requests of users"], [peers, "of other replicas"], [gitlab, "calls of GitLab"]];
  const left = all.filter(([count]) => count > 0).map(([count, what]) => `${number(count)} ${what}`);
  return left.length > 0 ? `waits for ${left.join(", ")}` : "waits for nothing more";
}

function survived(told) {
  if (!told) return "";
  const words = `${number(told.tunnels_lost)} tunnels lost, ${number(told.replays)} calls made again, ${number(told.resumes)} watches resumed`;
  return el("span", { title: words }, number(told.tunnels_lost + told.replays + told.resumes));
}

/** When the first of its certificates ends. */
function ends(certificates = []) {
  const [first] = [...certificates].sort((a, b) => Date.parse(a.not_after) - Date.parse(b.not_after));
  return first ? el("time", { datetime: first.not_after, title: `${first.file}, ${first.not_after}` }, new Date(first.not_after).toLocaleDateString()) : "";
}

/** The same of all replicas. */
function total(all) {
  const told = all.map((it) => it.details?.survived).filter(Boolean);
  const sum = (key) => number(told.reduce((sum, it) => sum + it[key], 0));
  return [["Tunnels lost", sum("tunnels_lost")], ["Calls made again", sum("replays")], ["Watches resumed", sum("resumes")]];
}
