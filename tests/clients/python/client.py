"""A client made with Python's package `kubernetes`. See tests/tests/clients/main.rs for what it is asked, and what it prints."""

import hashlib
import http.client
import sys
import threading

from kubernetes import client, config, watch
from kubernetes.informer import informer as informers
from kubernetes.stream import portforward, stream

POD = "box"
WATCHED = "watched=yes"
PAGE = 100
PORT = 8080
COMMAND = ["sh", "-c", "read -r said; echo heard $said; echo trouble >&2; exit 3"]


def shown(config_map):
    print(config_map.metadata.labels["round"], flush=True)


def list_(api, namespace):
    names, token = [], None
    while True:
        page = api.list_namespaced_config_map(namespace, limit=PAGE, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    print("\n".join(sorted(names)))


def watch_(api, namespace):
    listed = api.list_namespaced_config_map(namespace, label_selector=WATCHED)
    for item in listed.items:
        shown(item)
    version = listed.metadata.resource_version
    events = watch.Watch().stream(
        api.list_namespaced_config_map, namespace, label_selector=WATCHED, resource_version=version
    )
    for event in events:
        shown(event["object"])
    sys.exit("the watch has ended")


def informer(api, namespace):
    shared = informers.SharedInformer(
        api.list_namespaced_config_map, namespace=namespace, label_selector=WATCHED
    )
    shared.add_event_handler(informers.ADDED, shown)
    shared.add_event_handler(informers.MODIFIED, shown)
    shared.start()
    threading.Event().wait()


def logs(api, namespace):
    sys.stdout.write(api.read_namespaced_pod_log(POD, namespace))


def exec_(api, namespace):
    session = stream(
        api.connect_get_namespaced_pod_exec,
        POD,
        namespace,
        command=COMMAND,
        stdin=True,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
    )
    session.write_stdin("hello\n")
    session.run_forever(timeout=60)
    print(f"stdout: {session.read_stdout()}stderr: {session.read_stderr()}code: {session.returncode}")


def forward(api, namespace):
    ports = portforward(api.connect_get_namespaced_pod_portforward, POD, namespace, ports=str(PORT))
    connection = http.client.HTTPConnection("127.0.0.1", PORT)
    connection.sock = ports.socket(PORT)
    connection.request("GET", "/large")
    body = connection.getresponse().read()
    print(len(body), hashlib.sha256(body).hexdigest())


ACTIONS = {"list": list_, "watch": watch_, "informer": informer, "logs": logs, "exec": exec_, "forward": forward}

if __name__ == "__main__":
    action, kubeconfig, namespace = sys.argv[1:]
    config.load_kube_config(kubeconfig)
    ACTIONS[action](client.CoreV1Api(), namespace)
