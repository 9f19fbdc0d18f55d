// What one cluster is reached by and what its agent connects with: the kubeconfig, its token, a join token, their end.

import { invitation } from "./add.js";
import { agentPath, ask, end, make } from "./api.js";
import { confirmed, showText } from "./dialogs.js";
import { el } from "./dom.js";

/** Where this browser keeps the URL of the Kubernetes API proxy, which is no secret. */
const SERVER = "kas.admin.server";

/** The part of one cluster's view about the agent with this number or name; `signal` ends what it waits for. */
export function credentials(signal, id) {
  const path = agentPath(id);
  const server = el("input", { type: "url", autocomplete: "off", maxlength: "1024", placeholder: "https://kas.example.com/k8s-proxy/" });
  const told = el("p", { class: "muted", role: "status" });
  const why = el("p", { class: "muted" });
  const made = el("div");
  server.value = localStorage.getItem(SERVER) ?? "";
  let asked = false;
  let waiting;
  let name = id;

  const button = (words, action, kind = false) => el("button", { type: "button", class: kind, click: () => act(action) }, words);
  const changes = el("p", { class: "buttons", hidden: true },
    button("Rotate token", rotate), button("New join token", join), button("Revoke", revoke, "danger"));

  /** Does something, and says why not if it cannot be done. */
  async function act(action) {
    told.textContent = "";
    try {
      told.textContent = (await action()) ?? "";
    } catch (error) {
      told.textContent = `Not done: ${error.message}`;
    }
  }

  async function kubeconfig(event) {
    event.preventDefault();
    await act(async () => {
      const answer = await ask(`${path}/kubeconfig`, { server: server.value.trim() }, signal);
      if (server.value.trim()) localStorage.setItem(SERVER, server.value.trim());
      await showText({ title: `Kubeconfig of ${answer.agent.name || `agent ${answer.agent.id}`}`, what: answer.explanation, text: answer.kubeconfig });
    });
  }

  async function rotate() {
    const meant = await confirmed({
      title: `A new token for ${name}?`, yes: "Make it",
      what: "The older token stays good for a day, so that agentk can be given the new one; of two older ones, the oldest ends now.",
    });
    if (!meant) return undefined;
    const { agent, token } = await make(`${path}/rotate-token`, {});
    await showText({
      title: `New token of ${agent.name}`, text: token,
      what: "It is shown here once and kept nowhere: put it into the Secret or file that agentk reads.",
    });
    return `Agent ${agent.name} has a new token.`;
  }

  async function join() {
    const meant = await confirmed({
      title: `A join token for ${name}?`, yes: "Make it",
      what: "One agentk may make a token of its own by it, once, within 30 minutes. A join token that nobody has used yet ends.",
    });
    if (!meant) return undefined;
    waiting?.stop();
    waiting = invitation(await make(`${path}/join-token`, {}), signal);
    made.replaceChildren(waiting.view);
    return undefined;
  }

  async function revoke() {
    const meant = await confirmed({
      title: `Revoke all tokens of ${name}?`, yes: "Revoke",
      what: "Its agentk is disconnected and cannot come back: nobody reaches this cluster until it has a new token. Join tokens end too.",
    });
    if (!meant) return undefined;
    const { agent, revoked } = await end(`${path}/tokens`);
    waiting?.stop();
    made.replaceChildren();
    return `Revoked ${revoked} ${revoked === 1 ? "token" : "tokens"} of ${agent.name}: it is disconnected within seconds.`;
  }

  async function refresh(agent) {
    name = agent.name || `agent ${agent.id}`;
    if (!asked) {
      const registration = await ask("registration", {}, signal);
      asked = true;
      changes.hidden = !registration.possible;
      why.textContent = registration.possible ? "" : `Tokens are not changed here: ${registration.problem}.`;
    }
    await waiting?.look();
  }

  const view = el("section", { class: "card" }, el("h3", {}, "Credentials"),
    el("form", { class: "tools", submit: kubeconfig },
      el("label", { class: "long" }, "URL of the Kubernetes API proxy", server), el("button", { type: "submit" }, "Kubeconfig…")),
    changes, why, told, made);
  return { view, refresh };
}
