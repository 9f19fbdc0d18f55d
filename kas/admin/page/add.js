// Adds a cluster: the commands that install agentk there, and whether it has arrived.

import { Refused, agentPath, ask, make } from "./api.js";
import { copied } from "./dialogs.js";
import { el, state } from "./dom.js";
import { listen } from "./events.js";

/** Where this browser keeps the address of kas, which is no secret. */
const ADDRESS = "kas.admin.address";

/** The view; `signal` ends what it waits for. */
export function add(signal) {
  const name = el("input", { type: "text", id: "filter", required: true, autocomplete: "off", maxlength: "63", pattern: "[a-z0-9]([a-z0-9\\-]*[a-z0-9])?", placeholder: "prod", title: "lower-case letters, digits and -" });
  const address = el("input", { type: "text", required: true, autocomplete: "off", maxlength: "1024", placeholder: "wss://kas.example.com" });
  const button = el("button", { type: "submit" }, "Make a join token");
  const problem = el("p", { class: "bad", role: "alert", hidden: true });
  const form = el("form", { class: "tools", hidden: true, submit },
    el("label", {}, "Name of the cluster's agent", name), el("label", { class: "long" }, "Address of kas, as agents see it", address), button);
  const why = el("p", { class: "muted" }, "Asking whether this replica may…");
  const made = el("div");
  address.value = localStorage.getItem(ADDRESS) ?? "";
  let asked = false;
  let waiting;

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    problem.hidden = true;
    try {
      const token = await make("agents", { name: name.value.trim(), kas_address: address.value.trim() });
      localStorage.setItem(ADDRESS, address.value.trim());
      waiting?.stop();
      waiting = invitation(token, signal);
      made.replaceChildren(waiting.view);
      name.value = "";
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
    button.disabled = false;
  }

  async function refresh() {
    if (!asked) {
      const told = await ask("registration", {}, signal);
      asked = true;
      form.hidden = !told.possible;
      why.textContent = told.possible
        ? "An agent is registered, and gets a join token: good for one agentk, once, for 30 minutes. It is shown here only, until this view is left."
        : `Not here: ${told.problem}.`;
    }
    await waiting?.look();
  }
  const view = el("section", {}, el("p", {}, el("a", { href: "#/" }, "← All clusters")), el("h2", {}, "Add a cluster"), why, form, problem, made);
  return { view, refresh };
}

/** What to do with a join token, and whether its agent has come. */
export function invitation({ agent, helm, agentk, expires_at: until }, signal) {
  const status = el("p", { role: "status" });
  const own = new AbortController();
  const ended = AbortSignal.any([signal, own.signal]);
  let arrived = false;
  tell("warn", `waiting for ${agent.name}: it is connected as soon as agentk has joined`);

  function tell(kind, words, ...more) {
    status.replaceChildren(state(kind, words), ...more);
  }

  function come() {
    arrived = true;
    own.abort();
    tell("good", `${agent.name} is connected. `, el("a", { href: `#/clusters/${agent.id}` }, "Look at it"));
  }

  listen(ended, (event) => {
    if (arrived || event.agent?.id !== agent.id) return;
    if (event.type === "agent.connected") come();
    else if (event.type === "agent.refused") tell("bad", `${agent.name} was refused: ${event.detail}`);
  });

  /** An event may have been missed. */
  async function look() {
    if (arrived) return;
    try {
      const told = await ask(agentPath(String(agent.id)), {}, ended);
      if (told.agent.state === "connected" && !arrived) come();
    } catch (error) {
      // The next reading of the fleet has it.
      if (!(error instanceof Refused && error.status === 404) && error.name !== "AbortError") throw error;
    }
  }

  const view = el("section", { class: "card" },
    el("h3", {}, `Agent ${agent.name} has the number ${agent.id}`), status,
    el("p", { class: "muted" }, "The join token is good until ", el("time", { datetime: until }, new Date(until).toLocaleTimeString()), "."),
    command("In a cluster", helm), command("Elsewhere", agentk));
  return { view, look, stop: () => own.abort() };
}

/** A command with a button that copies it. */
function command(title, text) {
  const told = el("span", { class: "muted", role: "status" });
  const place = el("pre", { tabindex: "0", role: "region", "aria-label": title }, text);
  const copy = async () => { told.textContent = await copied(text, place); };
  return el("div", {},
    el("h4", {}, title), place,
    el("p", { class: "copy" }, el("button", { type: "button", class: "small", "aria-label": `Copy: ${title}`, click: copy }, "Copy"), told));
}
