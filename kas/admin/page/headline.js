// What everybody looks at first: how many clusters are connected, and what needs somebody.

import { el, facts, number, state } from "./dom.js";

/** Names of clusters that are not connected, in the headline. */
const NAMED = 5;
/** Days in which somebody must act before a certificate ends. */
const DAYS_BEFORE_END = 14;
/** Days beyond which nobody counts. */
const MANY_DAYS = 3_650;
/** Parts of a file's path that are shown: which folder and which file. */
const SHOWN_PARTS = 2;

/** The last two counts of requests, with their times in milliseconds. */
let counts = [];

/** Shows the answer of /v1/status. */
export function showHeadline(place, status) {
  const { requests_total: total, replicas, replicas_silent: silent } = status;
  counts = [...counts.slice(-1), { at: Date.now(), total, replicas, silent }];
  const parts = [el("h1", {}, sentence(status)), named("Not connected", "disconnected", notConnected(status), status.disconnected),
    named("Degraded", "degraded", status.agents_degraded || 0, status.degraded || []), facts(numbers(status))];
  place.replaceChildren(...parts.filter(Boolean));
}

/** What is known of how many clusters are connected, said as what it is. */
function sentence(status) {
  const { agents, agents_connected: connected, agents_degraded: degraded = 0, coverage } = status;
  if (coverage.scope === "none") return state("bad", "It is not known which clusters are connected");
  if (coverage.scope === "replica") {
    return state("bad", `The routing store does not answer: ${clusters(connected)} connected to this replica, others are not known`);
  }
  const some = degraded > 0 ? `, ${number(degraded)} of them degraded` : "";
  const kind = degraded > 0 ? "warn" : "good";
  // The control plane may not tell which agents there are: GitLab does not.
  if (agents === 0) return state(kind, `${number(connected)} clusters connected${some}`);
  const words = `${number(connected)} of ${number(agents)} clusters connected${some}`;
  return state(connected < agents ? "bad" : kind, words);
}

const clusters = (count) => (count === 1 ? "1 cluster is" : `${number(count)} clusters are`);

/** How many are known not to be connected. */
const notConnected = ({ agents, agents_connected: connected, agents_unknown: unknown = 0 }) => agents - connected - unknown;

/** The first of the clusters in a state, and the way to all. */
function named(words, view, count, first) {
  if (count <= 0 || first.length === 0) return "";
  const names = first.slice(0, NAMED).flatMap(({ id, name }) =>
    [el("a", { href: `#/clusters/${id}` }, name || `agent ${id}`), ", "]);
  return el("p", {}, `${words}: `, names, el("a", { href: `#/${view}` }, `all ${number(count)}`));
}

function numbers(status) {
  const failed = status.requests_total > 0 ? (100 * status.requests_failed) / status.requests_total : 0;
  const silent = status.replicas_silent;
  return [
    ["Replicas", [number(status.replicas), silent > 0 ? el("small", {}, ` ${number(silent)} do not answer`) : ""], silent > 0 && "bad"],
    ["Routing store", status.store, status.store === "unavailable" && "bad"],
    ["Requests in progress", number(status.requests_in_progress)],
    ["Requests", [rate(), el("small", {}, ` ${number(status.requests_total)} in all`)]],
    ...certificate(status),
    ["Failed", [number(status.requests_failed), el("small", {}, ` ${failed.toFixed(2)} %`)]],
    ...survived(status.survived),
  ];
}

/** Requests that ended in a second, since the last look, where both times all replicas told theirs. */
function rate() {
  const [before, now] = counts;
  if (!now || now.at <= before.at || now.total < before.total) return "";
  if (before.silent > 0 || now.silent > 0 || before.replicas !== now.replicas) return "";
  const each = (1000 * (now.total - before.total)) / (now.at - before.at);
  return `${number(Number(each.toFixed(each < 10 ? 1 : 0)))}/s`;
}

/** The certificate that ends first. */
function certificate({ certificates, coverage }) {
  const first = (certificates || [])[0];
  if (!first) return [];
  // By the server's clock.
  const days = Math.floor((Date.parse(first.not_after) - Date.parse(coverage.as_of)) / 86_400_000);
  const file = el("small", { title: first.file }, ` ${first.file.split("/").slice(-SHOWN_PARTS).join("/")}`);
  return [["First certificate ends in", [left(days), file], days < DAYS_BEFORE_END && "bad"]];
}

function left(days) {
  if (days < 0) return "has ended";
  return days > MANY_DAYS ? "over 10 years" : `${number(days)} days`;
}

/** What broke and was noticed by nobody. */
function survived(told) {
  if (!told) return [];
  const all = told.tunnels_lost + told.replays + told.resumes;
  const time = told.minutes < 60 ? "since the start" : "in the last hour";
  return [["Failures survived", [el("a", { href: "#/replicas" }, number(all)), el("small", {}, ` ${time}`)]]];
}
