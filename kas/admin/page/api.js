// Asks this replica. A token, where one is needed, is sent in a header and kept for this tab only.

const TOKEN = "kas.admin.token";
/** Milliseconds until an answer is given up. */
const TIMEOUT = 15_000;

/** A question that was not answered, with the server's words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Asks for `path` below /v1; `query` holds its parameters, of which empty ones are left out. */
export const ask = (path, query = {}, signal = undefined) => send("GET", path, { query, signal });

/** Ends what is at `path` below /v1. */
export const end = (path) => send("DELETE", path);

/** Makes something at `path` below /v1. What it is made of goes as JSON, so that nothing of it is in a URL. */
export const make = (path, content) => send("POST", path, { content });

async function send(method, path, { query = {}, content, signal } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined);
  const url = new URL(`v1/${path}`, document.baseURI);
  url.search = new URLSearchParams(given);
  const timeout = AbortSignal.timeout(TIMEOUT);
  const response = await fetch(url, {
    method,
    headers: { ...authorization(), ...(content ? { "content-type": "application/json" } : {}) },
    body: content && JSON.stringify(content),
    cache: "no-store",
    credentials: "omit",
    signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
  });
  if (response.ok) return response.json();
  throw await refusal(response);
}

/** The answer to a question that does not end, such as /v1/events; `signal` ends it. */
export async function open(path, signal) {
  const url = new URL(`v1/${path}`, document.baseURI);
  const response = await fetch(url, { headers: authorization(), cache: "no-store", credentials: "omit", signal });
  if (response.ok) return response.body;
  throw await refusal(response);
}

function authorization() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { authorization: `Bearer ${token}` } : {};
}

async function refusal(response) {
  const problem = await response.json().catch(() => ({}));
  return new Refused(response.status, problem.message || `the replica answered ${response.status}`);
}

let asked;

/** Who asks and what they may do, as this replica knows them: asked once for each token. */
export const whoami = () => (asked ??= ask("caller").catch((error) => {
  asked = undefined;
  throw error;
}));

/** Why whoever sits here may not do what needs `role`; empty if they may. */
export async function missing(role) {
  const { roles } = await whoami();
  return roles.find((it) => it.role === role)?.problem ?? `This replica knows no role ${role}.`;
}

/** One agent's path, by its number or name. */
export const agentPath = (agent) => `agents/${encodeURIComponent(agent)}`;

/** Asks whoever sits here for a token, until one is given. */
export async function signIn(refusal) {
  const dialog = document.getElementById("sign-in");
  if (sessionStorage.getItem(TOKEN)) document.getElementById("sign-in-why").textContent = refusal;
  sessionStorage.removeItem(TOKEN);
  if (!dialog.open) dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  const form = dialog.querySelector("form");
  const token = form.elements.token.value.trim();
  form.reset();
  if (token) sessionStorage.setItem(TOKEN, token);
  asked = undefined;
}
