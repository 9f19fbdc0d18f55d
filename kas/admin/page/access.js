// Who may use which cluster and as whom: the matrix, the rules, and why somebody may or may not.

import { agentPath, ask } from "./api.js";
import { el, number, state, table } from "./dom.js";

const RULE_COLUMNS = ["Rule", "Clusters", "Who", "As", "Until", "Effect"];
const VERDICT_COLUMNS = ["Rule", "Clusters", "Who", "As", "What it says"];

/** The view; `signal` ends what it waits for. */
export function access(signal) {
  const caller = el("input", { type: "search", id: "filter", placeholder: "part of a name", autocomplete: "off", maxlength: "200", input: () => change() });
  const agent = el("input", { type: "search", placeholder: "part of a name", autocomplete: "off", maxlength: "100", input: () => change() });
  const told = el("p", { class: "muted", role: "status" });
  const how = el("p", { class: "muted" });
  const place = el("div");
  const rules = el("div");
  const why = whyForm(signal);
  let asked = 0;
  let waiting;
  let shown = "";

  function change() {
    clearTimeout(waiting);
    waiting = setTimeout(() => refresh().catch((error) => { if (error.name !== "AbortError") told.textContent = error.message; }), 200);
  }

  async function refresh() {
    const mine = ++asked;
    const answer = await ask("access", { caller: caller.value.trim(), agent: agent.value.trim() }, signal);
    if (mine !== asked) return;
    // What is as it was stays as it is, with whoever stands in it.
    const { coverage: _, ...content } = answer;
    const text = JSON.stringify(content);
    if (text === shown) return;
    shown = text;
    show(answer);
  }

  function show(answer) {
    const { decided_by: by, explanation, agents, rows } = answer;
    how.textContent = explanation;
    const byFile = by === "standalone";
    for (const part of [tools, matrixTitle, ruleTitle, why]) part.hidden = !byFile;
    if (!byFile) return;
    told.textContent = `${some(rows.length, answer.rows_total)} callers and groups, ${some(agents.length, answer.agents_total)} clusters`;
    place.replaceChildren(matrix(answer, (question) => why.about(question)));
    ruleTitle.textContent = `Rules (${some(answer.rules.length, answer.rules_total)})`;
    rules.replaceChildren(ruleTable(answer.rules));
  }

  const tools = el("div", { class: "tools" }, el("label", {}, "User, service or group", caller), el("label", {}, "Cluster", agent), told);
  const matrixTitle = el("h2", {}, "Who may use which cluster");
  const ruleTitle = el("h2", {}, "Rules");
  const view = el("section", {}, el("h2", {}, "Access"), how, why, matrixTitle, tools, place, ruleTitle, rules);
  for (const part of [tools, matrixTitle, ruleTitle, why]) part.hidden = true;
  return { view, refresh };
}

const some = (shown, all) => (shown < all ? `${number(shown)} of ${number(all)}` : number(all));

function matrix({ agents, rows }, whyOf) {
  if (rows.length === 0) return el("p", { class: "empty" }, "Nobody matches.");
  const columns = ["Who", ...agents.map(({ id, name }) => name || `agent ${id}`)];
  const made = rows.map((row) => ({
    cells: [
      [row.name, el("div", { class: "muted" }, row.groups.length > 0 ? `${row.kind}, in ${row.groups.join(", ")}` : row.kind)],
      ...row.cells.map((cell, at) => allowed(cell, row, agents[at], whyOf)),
    ],
  }));
  const shown = table("Who may use which cluster", columns, made);
  shown.classList.add("matrix");
  return shown;
}

/** What one may do at one cluster, as a button that asks why. */
function allowed({ rule, access_as: as }, row, agent, whyOf) {
  const words = rule > 0 ? state("good", `as ${as}`) : el("span", { class: "muted" }, "no");
  const name = agent.name || `agent ${agent.id}`;
  const label = rule > 0 ? `${row.kind} ${row.name} may use ${name} as ${as}: why?` : `no: ${row.kind} ${row.name} may not use ${name}: why?`;
  const question = row.kind === "group" ? { kind: "user", name: "", groups: row.name } : { kind: row.kind, name: row.name, groups: "" };
  return el("button", {
    type: "button", class: "plain", "aria-label": label, title: rule > 0 ? `by rule ${rule}` : false,
    "data-id": `${row.kind}/${row.name}/${agent.id}`, click: () => whyOf({ ...question, agent: String(agent.id) }),
  }, words);
}

/** A table of rules; those without effect say so. */
export function ruleTable(rules) {
  if (rules.length === 0) return el("p", { class: "muted" }, "No rule: nobody may use it. `kas access grant` makes one.");
  return table("Rules", RULE_COLUMNS, rules.map((rule) => ({ cells: [...ruleCells(rule), until(rule), effect(rule)] })));
}

const ruleCells = ({ number: at, agents, callers, access_as: as, recorded }) =>
  [String(at), agents, callers, recorded ? [as, el("div", { class: "muted" }, RECORDED[recorded] ?? recorded)] : as];

/** What a rule says of recordings of exec and attach. */
const RECORDED = { possible: "sessions are recorded", required: "sessions only with a recording" };

function until({ expires_at: end }) {
  return end ? el("time", { datetime: end, title: end }, new Date(end).toLocaleString()) : "";
}

function effect({ expired, shadowed_by: by }) {
  if (expired) return state("warn", "is over");
  if (by.length > 0) return state("warn", `none: rule ${by.join(", ")} decides for all that it names`);
  return state("good", "counts");
}

/**
 * Asks why somebody may use a cluster, or not; with `fixed`, that one. `about` fills it in and asks, where a name is
 * given.
 */
export function whyForm(signal, fixed = "") {
  const agent = el("input", { type: "text", autocomplete: "off", maxlength: "253", required: true, placeholder: "name or number" });
  const kind = el("select", {}, el("option", { value: "user" }, "user"), el("option", { value: "service" }, "service"));
  const name = el("input", { type: "text", autocomplete: "off", maxlength: "200", required: true, placeholder: "alice" });
  const groups = el("input", { type: "text", autocomplete: "off", maxlength: "500", placeholder: "of an OIDC token" });
  const answer = el("div", { role: "status" });
  agent.value = fixed;

  async function submit(event) {
    event?.preventDefault();
    const query = { [kind.value]: name.value.trim(), groups: groups.value.trim() };
    try {
      answer.replaceChildren(...answered(await ask(`${agentPath(agent.value.trim())}/access`, query, signal)));
    } catch (error) {
      if (error.name !== "AbortError") answer.replaceChildren(el("p", { class: "bad" }, error.message));
    }
  }

  const form = el("form", { class: "tools", submit },
    fixed ? "" : el("label", {}, "Cluster", agent),
    el("label", {}, "Kind", kind), el("label", {}, "Name", name), el("label", {}, "More groups", groups),
    el("button", { type: "submit" }, "Why?"));
  const made = el("section", { class: "card" }, el("h3", {}, "Why can this user?"), form, answer);
  made.about = (question) => {
    kind.value = question.kind;
    name.value = question.name;
    groups.value = question.groups;
    agent.value = question.agent;
    made.scrollIntoView({ block: "nearest" });
    if (question.name) submit();
    else answer.replaceChildren(el("p", { class: "muted" }, "Give the name of somebody in this group, or any name, and ask."));
    name.focus();
  };
  return made;
}

function answered({ answer, explanation }) {
  if (!answer) return [el("p", {}, explanation)];
  const whom = answer.allowed ? answer.cluster_user || "the agent itself" : "";
  const groups = answer.cluster_groups.length > 0 ? `, in ${answer.cluster_groups.join(", ")}` : "";
  const rows = answer.verdicts.map(({ rule, verdict }) => ({
    cells: [...ruleCells(rule), verdict === "decides" ? state(answer.allowed ? "good" : "bad", verdict) : verdict],
  }));
  return [
    el("p", {}, state(answer.allowed ? "good" : "bad", answer.sentence)),
    whom ? el("p", { class: "muted" }, `In the cluster: ${whom}${groups}. What that may do there is for the cluster's RBAC.`) : "",
    rows.length > 0 ? table("What each rule says", VERDICT_COLUMNS, rows) : "",
  ].filter(Boolean);
}
