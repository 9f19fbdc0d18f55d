//! Endpoint slices: the addresses of the pods behind each service.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::object::{self, list, text};
use super::super::patch::Format;
use super::super::store::{Key, Store};
use super::super::verbs::{self, Part, WriteContext};
use super::super::{kinds, selector::Labels};
use super::{Step, replicasets::is_ready};

/// Writes one slice for every service that selects pods.
pub(super) fn reconcile(store: &mut Store, now: Timestamp) -> Step {
    let services: Vec<_> = store
        .list(kinds::named("services"), None)
        .cloned()
        .collect();
    for service in services.iter().filter(|one| !object::deleting(one)) {
        let selector = object::map(service, "/spec/selector");
        if selector.is_some_and(|selector| !selector.is_empty()) {
            write(store, service, now)?;
        }
    }
    Ok(())
}

fn write(store: &mut Store, service: &Value, now: Timestamp) -> Step {
    let kind = kinds::named("endpointslices");
    let namespace = object::namespace(service);
    let key = Key::new(kind, namespace, object::name(service));
    let slice = slice(service, &pods_behind(store, service));
    let context = WriteContext::at(now);
    if store.get(&key).is_none() {
        return verbs::create(store, kind, namespace, slice, context).map(drop);
    }
    verbs::patch(store, &key, Part::Main, Format::Merge, &slice, context).map(drop)
}

fn pods_behind(store: &Store, service: &Value) -> Vec<Arc<Value>> {
    let wanted = Labels::equal_to(object::map(service, "/spec/selector"));
    store
        .list(kinds::named("pods"), Some(object::namespace(service)))
        .filter(|pod| wanted.matches(pod) && !object::deleting(pod))
        .filter(|pod| !text(pod, "/status/podIP").is_empty())
        .cloned()
        .collect()
}

fn slice(service: &Value, pods: &[Arc<Value>]) -> Value {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|pod| {
            let ready = is_ready(pod);
            json!({"addresses": [text(pod, "/status/podIP")],
                   "conditions": {"ready": ready, "serving": ready, "terminating": false},
                   "nodeName": text(pod, "/spec/nodeName"),
                   "targetRef": {"kind": "Pod", "name": object::name(pod),
                                 "namespace": object::namespace(pod), "uid": object::uid(pod)}})
        })
        .collect();
    let ports: Vec<_> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            json!({"name": text(port, "/name"), "protocol": text(port, "/protocol"),
                   "port": target_port(port, pods)})
        })
        .collect();
    json!({"metadata": {"name": object::name(service),
                        "labels": {"kubernetes.io/service-name": object::name(service)},
                        "ownerReferences": [object::owner_reference(service)]},
           "addressType": "IPv4", "endpoints": endpoints, "ports": ports})
}

/// The port's number at the pods, looked up there when it is a name.
fn target_port(port: &Value, pods: &[Arc<Value>]) -> Value {
    let target = &port["targetPort"];
    if !target.is_string() {
        return target.clone();
    }
    pods.iter()
        .flat_map(|pod| list(pod, "/spec/containers"))
        .flat_map(|container| list(container, "/ports"))
        .find(|candidate| candidate["name"] == *target)
        .map_or_else(
            || port["port"].clone(),
            |found| found["containerPort"].clone(),
        )
}
