// A client made with JavaScript's package `@kubernetes/client-node`. See tests/tests/clients/main.rs for what it is asked, and
// what it prints.
import { createHash } from "node:crypto";
import http from "node:http";
import net from "node:net";
import { PassThrough, Readable } from "node:stream";
import { text } from "node:stream/consumers";

import * as k8s from "@kubernetes/client-node";

const POD = "box";
const WATCHED = "watched=yes";
const PAGE = 100;
const PORT = 8080;
const COMMAND = ["sh", "-c", "read -r said; echo heard $said; echo trouble >&2; exit 3"];

const [action, kubeconfig, namespace] = process.argv.slice(2);
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const api = config.makeApiClient(k8s.CoreV1Api);
const maps = `/api/v1/namespaces/${namespace}/configmaps`;

const watched = () => api.listNamespacedConfigMap({ namespace, labelSelector: WATCHED });
const shown = (map) => console.log(map.metadata.labels.round);
const failed = (error) => {
  console.error(error);
  process.exit(1);
};

async function list() {
  const names = [];
  let _continue;
  do {
    const page = await api.listNamespacedConfigMap({ namespace, limit: PAGE, _continue });
    names.push(...page.items.map((item) => item.metadata.name));
    _continue = page.metadata._continue;
  } while (_continue);
  console.log(names.sort().join("\n"));
}

async function watch() {
  const listed = await watched();
  listed.items.forEach(shown);
  const query = { labelSelector: WATCHED, resourceVersion: listed.metadata.resourceVersion };
  const ended = (error) => failed(error ?? new Error("the watch has ended"));
  await new k8s.Watch(config).watch(maps, query, (_, map) => shown(map), ended);
}

async function informer() {
  const informer = k8s.makeInformer(config, maps, watched, WATCHED);
  informer.on("add", shown);
  informer.on("update", shown);
  informer.on("error", failed);
  await informer.start();
}

async function logs() {
  process.stdout.write(await api.readNamespacedPodLog({ namespace, name: POD }));
}

async function exec() {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  // Its standard input stays open: what is behind the end of a stream the library does not wait for.
  const stdin = new Readable({ read() {} });
  stdin.push("hello\n");
  const status = await new Promise((ended, broken) => {
    new k8s.Exec(config)
      .exec(namespace, POD, POD, COMMAND, stdout, stderr, stdin, false, ended)
      .then((socket) => socket.on("error", broken), broken);
  });
  stdout.end();
  stderr.end();
  const code = status.details.causes.find((cause) => cause.reason === "ExitCode").message;
  console.log(`stdout: ${await text(stdout)}stderr: ${await text(stderr)}code: ${code}`);
  process.exit(0);
}

async function forward() {
  const server = net.createServer((socket) => {
    new k8s.PortForward(config).portForward(namespace, POD, [PORT], socket, null, socket).catch(failed);
  });
  await new Promise((listens) => server.listen(0, "127.0.0.1", listens));
  const { port } = server.address();
  http
    .get({ host: "127.0.0.1", port, path: "/large", agent: false }, async (answer) => {
      const hash = createHash("sha256");
      let bytes = 0;
      for await (const piece of answer) {
        hash.update(piece);
        bytes += piece.length;
      }
      console.log(bytes, hash.digest("hex"));
      process.exit(0);
    })
    .on("error", failed);
}

const actions = { list, watch, informer, logs, exec, forward };
await actions[action]().catch(failed);
