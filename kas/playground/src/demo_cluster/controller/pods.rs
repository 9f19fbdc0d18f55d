//! The scheduler and the kubelet of the demo node: pods come up and go away.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::object::{self, list, text};
use super::super::store::{Key, Store};
use super::super::{clock, kinds};
use super::{ControllerState, events};

const NODE: &str = "demo-node";
/// More pods than this do not fit on the node.
const CAPACITY: usize = 500;

/// What a pod does before its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Waiting,
    Creating,
    Running,
    Terminating,
}

/// What a pod is doing, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stage {
    activity: Activity,
    since: Timestamp,
}

impl Activity {
    fn of(pod: &Value) -> Self {
        match () {
            () if object::deleting(pod) => Self::Terminating,
            () if text(pod, "/spec/nodeName").is_empty() => Self::Waiting,
            () if text(pod, "/status/phase") == "Pending" => Self::Creating,
            () => Self::Running,
        }
    }

    /// How long it lasts.
    fn length(self) -> Option<SignedDuration> {
        match self {
            Self::Waiting => Some(SignedDuration::from_millis(100)),
            Self::Creating => Some(SignedDuration::from_millis(600)),
            Self::Terminating => Some(SignedDuration::from_secs(1)),
            Self::Running => None,
        }
    }
}

/// Takes every pod whose time has come to its next stage; answers when the next one is due.
pub(super) fn reconcile(
    store: &mut Store,
    state: &mut ControllerState,
    now: Timestamp,
) -> Option<Timestamp> {
    let kind = kinds::named("pods");
    let pods: Vec<_> = store.list(kind, None).cloned().collect();
    let mut placed = pods
        .iter()
        .filter(|pod| Activity::of(pod) != Activity::Waiting)
        .count();
    let uids: HashSet<_> = pods.iter().map(|pod| object::uid(pod)).collect();
    state.stages.retain(|uid, _| uids.contains(uid.as_str()));
    let mut due = None;
    for pod in &pods {
        let activity = Activity::of(pod);
        let stage = state
            .stages
            .entry(object::uid(pod).to_owned())
            .and_modify(|stage| *stage = stage.at(activity, now))
            .or_insert(Stage {
                activity,
                since: now,
            });
        let Some(end) = stage.end() else { continue };
        if now < end {
            due = Some(due.map_or(end, |due: Timestamp| due.min(end)));
            continue;
        }
        match activity {
            Activity::Waiting if placed >= CAPACITY => unschedulable(store, pod, now),
            Activity::Waiting => {
                placed += 1;
                schedule(store, pod, now);
            }
            Activity::Creating => {
                state.addresses += 1;
                start(store, pod, state.addresses, now);
            }
            Activity::Terminating => terminate(store, pod),
            Activity::Running => {}
        }
    }
    due
}

impl Stage {
    fn at(self, activity: Activity, now: Timestamp) -> Self {
        if self.activity == activity {
            return self;
        }
        Self {
            activity,
            since: now,
        }
    }

    fn end(self) -> Option<Timestamp> {
        let length = self.activity.length()?;
        self.since.saturating_add(length).ok()
    }
}

fn write(store: &mut Store, pod: Value) {
    let key = Key::of(kinds::named("pods"), &pod);
    if let Err(error) = store.replace(key, pod) {
        tracing::debug!(%error, "demo cluster: cannot update a pod");
    }
}

fn condition(kind: &str, holds: bool, now: Timestamp) -> Value {
    json!({"type": kind, "status": if holds { "True" } else { "False" },
           "lastProbeTime": null, "lastTransitionTime": clock::seconds(now)})
}

fn conditions(running: bool, now: Timestamp) -> Value {
    json!([
        condition("PodReadyToStartContainers", running, now),
        condition("Initialized", true, now),
        condition("Ready", running, now),
        condition("ContainersReady", running, now),
        condition("PodScheduled", true, now),
    ])
}

fn unschedulable(store: &mut Store, pod: &Arc<Value>, now: Timestamp) {
    let mut next = Value::clone(pod);
    let mut scheduled = condition("PodScheduled", false, now);
    scheduled["reason"] = json!("Unschedulable");
    scheduled["message"] = json!("0/1 nodes are available: 1 Too many pods.");
    if list(pod, "/status/conditions").is_empty() {
        object::set(&mut next, "status", "conditions", json!([scheduled]));
        let message = "0/1 nodes are available: 1 Too many pods.";
        events::record(store, pod, "FailedScheduling", message, now);
        write(store, next);
    }
}

fn schedule(store: &mut Store, pod: &Arc<Value>, now: Timestamp) {
    let mut next = Value::clone(pod);
    object::set(&mut next, "spec", "nodeName", json!(NODE));
    let waiting: Vec<_> = list(pod, "/spec/containers")
        .iter()
        .map(|container| {
            json!({"name": container["name"], "image": container["image"], "imageID": "",
                   "ready": false, "started": false, "restartCount": 0, "lastState": {},
                   "state": {"waiting": {"reason": "ContainerCreating"}}})
        })
        .collect();
    for (field, value) in [
        ("phase", json!("Pending")),
        ("conditions", conditions(false, now)),
        ("hostIP", json!("192.0.2.1")),
        ("startTime", json!(clock::seconds(now))),
        ("containerStatuses", json!(waiting)),
    ] {
        object::set(&mut next, "status", field, value);
    }
    write(store, next);
    let message = format!(
        "Successfully assigned {}/{} to {NODE}",
        object::namespace(pod),
        object::name(pod)
    );
    events::record(store, pod, "Scheduled", &message, now);
}

fn start(store: &mut Store, pod: &Arc<Value>, address: u32, now: Timestamp) {
    let mut next = Value::clone(pod);
    let started = json!({"running": {"startedAt": clock::seconds(now)}});
    let statuses = next.pointer_mut("/status/containerStatuses");
    for status in statuses.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(status) = status.as_object_mut() {
            status.insert("ready".to_owned(), json!(true));
            status.insert("started".to_owned(), json!(true));
            status.insert("state".to_owned(), started.clone());
        }
    }
    let address = Ipv4Addr::from(0x0AF4_0001 + address % 0xFFFE).to_string();
    for (field, value) in [
        ("phase", json!("Running")),
        ("conditions", conditions(true, now)),
        ("podIP", json!(address)),
        ("podIPs", json!([{"ip": address}])),
    ] {
        object::set(&mut next, "status", field, value);
    }
    write(store, next);
    for container in list(pod, "/spec/containers") {
        let (name, image) = (text(container, "/name"), text(container, "/image"));
        let pulled = format!("Container image \"{image}\" pretends to be present on machine");
        events::record(store, pod, "Pulled", &pulled, now);
        let created = format!("Created container: {name}");
        events::record(store, pod, "Created", &created, now);
        let started = format!("Started container {name}");
        events::record(store, pod, "Started", &started, now);
    }
}

/// The grace is over: the pod goes, unless finalizers keep it.
fn terminate(store: &mut Store, pod: &Arc<Value>) {
    let key = Key::of(kinds::named("pods"), pod);
    if !object::finalized_by_others(pod) {
        store.remove(&key);
    }
}
