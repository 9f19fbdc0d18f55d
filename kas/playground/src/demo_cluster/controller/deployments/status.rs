//! What a deployment's status says.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::super::object::{self, list, number};
use super::super::super::patch::Format;
use super::super::super::store::{Key, Store};
use super::super::super::verbs::{self, Part, WriteContext};
use super::super::super::{clock, kinds};
use super::super::Step;
use super::rollout::bounds;

/// Writes into the status how far the rollout is.
pub(super) fn write(
    store: &mut Store,
    deployment: &Value,
    current: Option<&Value>,
    sets: &[Arc<Value>],
    now: Timestamp,
) -> Step {
    let key = Key::of(kinds::named("deployments"), deployment);
    let Some(latest) = store.get(&key).cloned() else {
        return Ok(());
    };
    let sum = |field: &str| sets.iter().map(|set| number(set, field)).sum::<i64>();
    let current = current.and_then(|set| store.get(&Key::of(kinds::named("replicasets"), set)));
    let updated = current.map_or(0, |set| number(set, "/status/replicas"));
    let (wanted, replicas) = (number(&latest, "/spec/replicas"), sum("/status/replicas"));
    let available = sum("/status/availableReplicas");
    let done = [updated, available, replicas] == [wanted; 3];
    let set = current.map(|set| object::name(set)).unwrap_or_default();
    let unavailable = (wanted - available).max(0);
    let status = json!({"status": {
        "observedGeneration": latest["metadata"]["generation"],
        "replicas": replicas, "updatedReplicas": updated,
        "readyReplicas": sum("/status/readyReplicas"), "availableReplicas": available,
        "unavailableReplicas": if unavailable == 0 { Value::Null } else { json!(unavailable) },
        "conditions": [availability(&latest, wanted, available, now),
                       progress(&latest, set, done, now)]}});
    let merge = Format::Merge;
    verbs::patch(
        store,
        &key,
        Part::Status,
        merge,
        &status,
        WriteContext::at(now),
    )
    .map(drop)
}

fn availability(deployment: &Value, wanted: i64, available: i64, now: Timestamp) -> Value {
    let (_, missing) = bounds(deployment, wanted);
    let enough = available >= wanted - missing;
    let why = if enough {
        (
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    condition(deployment, "Available", enough, why, now)
}

fn progress(deployment: &Value, set: &str, done: bool, now: Timestamp) -> Value {
    let (reason, how) = if done {
        ("NewReplicaSetAvailable", "has successfully progressed.")
    } else {
        ("ReplicaSetUpdated", "is progressing.")
    };
    let message = format!("ReplicaSet \"{set}\" {how}");
    condition(deployment, "Progressing", true, (reason, &message), now)
}

/// A condition that keeps its times while it stays as it is.
fn condition(
    deployment: &Value,
    kind: &str,
    holds: bool,
    (reason, message): (&str, &str),
    now: Timestamp,
) -> Value {
    let status = if holds { "True" } else { "False" };
    let before = list(deployment, "/status/conditions")
        .iter()
        .find(|one| one["type"] == kind);
    if let Some(before) = before
        && before["status"] == status
        && before["reason"] == reason
        && before["message"] == message
    {
        return before.clone();
    }
    let time = clock::seconds(now);
    let since = before
        .filter(|before| before["status"] == status)
        .map_or(json!(time), |before| before["lastTransitionTime"].clone());
    json!({"type": kind, "status": status, "reason": reason, "message": message,
           "lastUpdateTime": time, "lastTransitionTime": since})
}
