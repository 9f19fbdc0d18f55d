//! What stands in the cells of the tables.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::clock;
use super::super::object::{self, list, number, text};

/// A cell that is never filled in the demo cluster.
pub(super) fn none(_: &Value, _: Timestamp) -> Value {
    json!("<none>")
}

fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

fn labels(object: &Value, pointer: &str) -> Value {
    let pairs: Vec<_> = object::map(object, pointer)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or_none(&pairs.join(","))
}

pub(super) fn name(object: &Value, _: Timestamp) -> Value {
    json!(object::name(object))
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    json!(clock::age(text(object, "/metadata/creationTimestamp"), now))
}

pub(super) fn phase(object: &Value, _: Timestamp) -> Value {
    json!(text(object, "/status/phase"))
}

pub(super) fn ready_containers(pod: &Value, _: Timestamp) -> Value {
    let ready = list(pod, "/status/containerStatuses")
        .iter()
        .filter(|status| status["ready"] == true)
        .count();
    json!(format!("{ready}/{}", list(pod, "/spec/containers").len()))
}

pub(super) fn pod_status(pod: &Value, now: Timestamp) -> Value {
    if object::deleting(pod) {
        return json!("Terminating");
    }
    let waiting = list(pod, "/status/containerStatuses")
        .iter()
        .map(|status| text(status, "/state/waiting/reason"))
        .find(|reason| !reason.is_empty());
    waiting.map_or_else(|| phase(pod, now), |reason| json!(reason))
}

pub(super) fn restarts(pod: &Value, _: Timestamp) -> Value {
    let counts = list(pod, "/status/containerStatuses").iter();
    let total: i64 = counts.map(|status| number(status, "/restartCount")).sum();
    json!(total.to_string())
}

pub(super) fn pod_ip(pod: &Value, _: Timestamp) -> Value {
    or_none(text(pod, "/status/podIP"))
}

pub(super) fn node(pod: &Value, _: Timestamp) -> Value {
    or_none(text(pod, "/spec/nodeName"))
}

pub(super) fn ready_of_wanted(deployment: &Value, _: Timestamp) -> Value {
    let ready = number(deployment, "/status/readyReplicas");
    json!(format!("{ready}/{}", number(deployment, "/spec/replicas")))
}

pub(super) fn updated(deployment: &Value, _: Timestamp) -> Value {
    json!(number(deployment, "/status/updatedReplicas"))
}

pub(super) fn available(deployment: &Value, _: Timestamp) -> Value {
    json!(number(deployment, "/status/availableReplicas"))
}

pub(super) fn desired(replicaset: &Value, _: Timestamp) -> Value {
    json!(number(replicaset, "/spec/replicas"))
}

pub(super) fn current(replicaset: &Value, _: Timestamp) -> Value {
    json!(number(replicaset, "/status/replicas"))
}

pub(super) fn ready_replicas(replicaset: &Value, _: Timestamp) -> Value {
    json!(number(replicaset, "/status/readyReplicas"))
}

fn of_containers(workload: &Value, field: &str) -> Value {
    let containers = list(workload, "/spec/template/spec/containers").iter();
    let values: Vec<_> = containers.map(|container| text(container, field)).collect();
    json!(values.join(","))
}

pub(super) fn containers(workload: &Value, _: Timestamp) -> Value {
    of_containers(workload, "/name")
}

pub(super) fn images(workload: &Value, _: Timestamp) -> Value {
    of_containers(workload, "/image")
}

pub(super) fn selector(workload: &Value, _: Timestamp) -> Value {
    labels(workload, "/spec/selector/matchLabels")
}

pub(super) fn service_type(service: &Value, _: Timestamp) -> Value {
    json!(text(service, "/spec/type"))
}

pub(super) fn cluster_ip(service: &Value, _: Timestamp) -> Value {
    or_none(text(service, "/spec/clusterIP"))
}

pub(super) fn ports(service: &Value, _: Timestamp) -> Value {
    let ports: Vec<_> = list(service, "/spec/ports")
        .iter()
        .map(|port| format!("{}/{}", number(port, "/port"), text(port, "/protocol")))
        .collect();
    or_none(&ports.join(","))
}

pub(super) fn service_selector(service: &Value, _: Timestamp) -> Value {
    labels(service, "/spec/selector")
}

pub(super) fn node_status(node: &Value, _: Timestamp) -> Value {
    let ready = list(node, "/status/conditions")
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let status = if ready { "Ready" } else { "NotReady" };
    if node["spec"]["unschedulable"] == true {
        return json!(format!("{status},SchedulingDisabled"));
    }
    json!(status)
}

pub(super) fn roles(node: &Value, _: Timestamp) -> Value {
    let roles: Vec<_> = object::map(node, "/metadata/labels")
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    or_none(&roles.join(","))
}

pub(super) fn kubelet_version(node: &Value, _: Timestamp) -> Value {
    json!(text(node, "/status/nodeInfo/kubeletVersion"))
}

pub(super) fn internal_ip(node: &Value, _: Timestamp) -> Value {
    let addresses = list(node, "/status/addresses").iter();
    let mut internal = addresses.filter(|address| address["type"] == "InternalIP");
    or_none(
        internal
            .next()
            .map_or("", |address| text(address, "/address")),
    )
}

pub(super) fn os_image(node: &Value, _: Timestamp) -> Value {
    json!(text(node, "/status/nodeInfo/osImage"))
}

pub(super) fn kernel(node: &Value, _: Timestamp) -> Value {
    json!(text(node, "/status/nodeInfo/kernelVersion"))
}

pub(super) fn runtime(node: &Value, _: Timestamp) -> Value {
    json!(text(node, "/status/nodeInfo/containerRuntimeVersion"))
}

pub(super) fn last_seen(event: &Value, now: Timestamp) -> Value {
    json!(clock::age(text(event, "/lastTimestamp"), now))
}

pub(super) fn event_type(event: &Value, _: Timestamp) -> Value {
    json!(text(event, "/type"))
}

pub(super) fn reason(event: &Value, _: Timestamp) -> Value {
    json!(text(event, "/reason"))
}

pub(super) fn involved(event: &Value, _: Timestamp) -> Value {
    let kind = text(event, "/involvedObject/kind").to_lowercase();
    json!(format!("{kind}/{}", text(event, "/involvedObject/name")))
}

pub(super) fn source(event: &Value, _: Timestamp) -> Value {
    json!(text(event, "/source/component"))
}

pub(super) fn message(event: &Value, _: Timestamp) -> Value {
    json!(text(event, "/message").trim())
}

pub(super) fn count(event: &Value, _: Timestamp) -> Value {
    json!(number(event, "/count").to_string())
}

pub(super) fn data(object: &Value, _: Timestamp) -> Value {
    let entries = |field| object::map(object, field).map_or(0, serde_json::Map::len);
    json!(entries("/data") + entries("/binaryData"))
}

pub(super) fn secret_type(secret: &Value, _: Timestamp) -> Value {
    json!(text(secret, "/type"))
}

pub(super) fn secrets(account: &Value, _: Timestamp) -> Value {
    json!(list(account, "/secrets").len())
}

pub(super) fn holder(lease: &Value, _: Timestamp) -> Value {
    json!(text(lease, "/spec/holderIdentity"))
}
