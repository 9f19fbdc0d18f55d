//! Replica sets: as many pods as they want.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::object::{self, list, number};
use super::super::store::{Key, Store};
use super::super::verbs::{self, Deletion, WriteContext};
use super::super::{kinds, patch::Format};
use super::{Step, events};

/// Pods made or deleted at one look for one set.
const MAX_PODS_PER_ROUND: usize = 50;

/// Makes and deletes pods, and counts them in the status.
pub(super) fn reconcile(store: &mut Store, now: Timestamp) -> Step {
    let kind = kinds::named("replicasets");
    let sets: Vec<_> = store.list(kind, None).cloned().collect();
    for set in sets.iter().filter(|set| !object::deleting(set)) {
        scale(store, set, now)?;
        count(store, set, now)?;
    }
    Ok(())
}

/// Whether the pod is counted as ready.
pub(super) fn is_ready(pod: &Value) -> bool {
    list(pod, "/status/conditions")
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn pods_of(store: &Store, set: &Value) -> Vec<Arc<Value>> {
    let uid = object::uid(set);
    store
        .list(kinds::named("pods"), Some(object::namespace(set)))
        .filter(|pod| object::owned_by(pod, uid) && !object::deleting(pod))
        .cloned()
        .collect()
}

fn scale(store: &mut Store, set: &Value, now: Timestamp) -> Step {
    let mut pods = pods_of(store, set);
    let wanted = usize::try_from(number(set, "/spec/replicas")).unwrap_or(0);
    for _ in pods.len()..wanted.min(pods.len() + MAX_PODS_PER_ROUND) {
        let pod = verbs::create(
            store,
            kinds::named("pods"),
            object::namespace(set),
            new_pod(set),
            WriteContext::at(now),
        )?;
        let message = format!("Created pod: {}", object::name(&pod));
        events::record(store, set, "SuccessfulCreate", &message, now);
    }
    if pods.len() > wanted {
        pods.sort_by_cached_key(|pod| is_ready(pod));
        for pod in pods
            .iter()
            .take((pods.len() - wanted).min(MAX_PODS_PER_ROUND))
        {
            let key = Key::of(kinds::named("pods"), pod);
            let context = WriteContext::at(now);
            verbs::delete(store, &key, &Deletion::default(), context)?;
            let message = format!("Deleted pod: {}", key.name);
            events::record(store, set, "SuccessfulDelete", &message, now);
        }
    }
    Ok(())
}

fn new_pod(set: &Value) -> Value {
    let mut metadata = json!({"generateName": format!("{}-", object::name(set))});
    for field in ["labels", "annotations"] {
        if let Some(value) = set["spec"]["template"]["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    metadata["ownerReferences"] = json!([object::owner_reference(set)]);
    json!({"metadata": metadata, "spec": set["spec"]["template"]["spec"]})
}

fn count(store: &mut Store, set: &Value, now: Timestamp) -> Step {
    let pods = pods_of(store, set);
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let status = json!({"status": {
        "replicas": pods.len(), "fullyLabeledReplicas": pods.len(),
        "readyReplicas": ready, "availableReplicas": ready,
        "observedGeneration": set["metadata"]["generation"]}});
    let key = Key::of(kinds::named("replicasets"), set);
    let context = WriteContext::at(now);
    verbs::patch(
        store,
        &key,
        verbs::Part::Status,
        Format::Merge,
        &status,
        context,
    )
    .map(drop)
}
