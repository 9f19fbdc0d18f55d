//! Deployments: a replica set for each version of the template, and the rollout between them.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::failure::Failure;
use super::super::object::{self, list, number, text};
use super::super::patch::Format;
use super::super::store::{Key, Store};
use super::super::verbs::{self, Deletion, Occasion, Part};
use super::super::{clock, kinds};
use super::{Step, events};

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

/// Rolls every deployment one step forward.
pub(super) fn reconcile(store: &mut Store, now: Timestamp) -> Step {
    let kind = kinds::named("deployments");
    let deployments: Vec<_> = store.list(kind, None).cloned().collect();
    for deployment in deployments.iter().filter(|one| !object::deleting(one)) {
        roll(store, deployment, now)?;
    }
    Ok(())
}

fn roll(store: &mut Store, deployment: &Value, now: Timestamp) -> Step {
    let paused = deployment["spec"]["paused"] == true;
    let current = match (find(store, deployment), paused) {
        (Some(current), _) => Some(current),
        (None, true) => None,
        (None, false) => Some(make(store, deployment, now)?),
    };
    if let Some(current) = &current {
        number_revision(store, deployment, current, now)?;
        let old = others(store, deployment, current);
        if !paused || old.is_empty() {
            let rollout = Rollout::new(deployment, current, &old);
            rollout.apply(store, deployment, now)?;
        }
        prune(store, deployment, &old, now)?;
    }
    count(store, deployment, current.as_deref(), now)
}

fn sets_of(store: &Store, deployment: &Value) -> Vec<Arc<Value>> {
    let uid = object::uid(deployment);
    store
        .list(
            kinds::named("replicasets"),
            Some(object::namespace(deployment)),
        )
        .filter(|set| object::owned_by(set, uid) && !object::deleting(set))
        .cloned()
        .collect()
}

fn others(store: &Store, deployment: &Value, current: &Value) -> Vec<Arc<Value>> {
    let mut others = sets_of(store, deployment);
    others.retain(|set| object::uid(set) != object::uid(current));
    others
}

/// The replica set whose template is the deployment's.
fn find(store: &Store, deployment: &Value) -> Option<Arc<Value>> {
    let wanted = &deployment["spec"]["template"];
    sets_of(store, deployment).into_iter().find(|set| {
        let mut template = set["spec"]["template"].clone();
        if let Some(labels) = template.pointer_mut("/metadata/labels") {
            labels
                .as_object_mut()
                .map(|labels| labels.shift_remove(HASH));
        }
        template == *wanted
    })
}

fn make(store: &mut Store, deployment: &Value, now: Timestamp) -> Result<Arc<Value>, Failure> {
    let hash = hash(store, deployment);
    let mut template = deployment["spec"]["template"].clone();
    object::unset(&mut template, "metadata", "creationTimestamp");
    let mut selector = deployment["spec"]["selector"].clone();
    for labels in [
        template.pointer_mut("/metadata/labels"),
        selector.pointer_mut("/matchLabels"),
    ] {
        if let Some(labels) = labels.and_then(Value::as_object_mut) {
            labels.insert(HASH.to_owned(), json!(hash));
        }
    }
    let set = json!({
        "metadata": {"name": format!("{}-{hash}", object::name(deployment)),
                     "labels": template["metadata"]["labels"],
                     "annotations": {REVISION: next_revision(store, deployment).to_string()},
                     "ownerReferences": [object::owner_reference(deployment)]},
        "spec": {"replicas": 0, "selector": selector, "template": template}});
    let kind = kinds::named("replicasets");
    let namespace = object::namespace(deployment);
    verbs::create(store, kind, namespace, set, Occasion::at(now))
}

/// Names the template; a name that is taken by another set gets a different one.
fn hash(store: &mut Store, deployment: &Value) -> String {
    let template = deployment["spec"]["template"].to_string();
    let seed = format!("{}{template}", object::uid(deployment));
    let hash = letters(&seed);
    let name = format!("{}-{hash}", object::name(deployment));
    let namespace = object::namespace(deployment);
    let taken = store.get(&Key::new(kinds::named("replicasets"), namespace, &name));
    if taken.is_none() {
        return hash;
    }
    letters(&format!("{seed}{}", store.new_suffix()))
}

fn letters(seed: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    Sha256::digest(seed)
        .iter()
        .take(10)
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
        .collect()
}

fn revision(object: &Value) -> i64 {
    let revision = object["metadata"]["annotations"][REVISION].as_str();
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn next_revision(store: &Store, deployment: &Value) -> i64 {
    let sets = sets_of(store, deployment);
    sets.iter().map(|set| revision(set)).max().unwrap_or(0) + 1
}

/// Gives the current set the highest revision and the deployment the same.
fn number_revision(store: &mut Store, deployment: &Value, current: &Value, now: Timestamp) -> Step {
    let highest = next_revision(store, deployment) - 1;
    let is_latest = revision(current) == highest;
    let number = if is_latest { highest } else { highest + 1 };
    let annotation = json!({"metadata": {"annotations": {REVISION: number.to_string()}}});
    for (plural, object) in [("replicasets", current), ("deployments", deployment)] {
        let key = Key::of(kinds::named(plural), object);
        let merge = Format::Merge;
        verbs::patch(
            store,
            &key,
            Part::Main,
            merge,
            &annotation,
            Occasion::at(now),
        )?;
    }
    Ok(())
}

/// The sizes that the sets get next.
struct Rollout {
    sizes: Vec<(Arc<Value>, i64)>,
}

impl Rollout {
    fn new(deployment: &Value, current: &Arc<Value>, old: &[Arc<Value>]) -> Self {
        let wanted = number(deployment, "/spec/replicas");
        let size = |set: &Value| number(set, "/spec/replicas");
        let total = size(current) + old.iter().map(|set| size(set)).sum::<i64>();
        let recreate = text(deployment, "/spec/strategy/type") == "Recreate";
        let (surge, missing) = if recreate {
            (0, wanted)
        } else {
            bounds(deployment, wanted)
        };
        let room = (wanted + surge - total).max(0);
        let grown = if size(current) > wanted {
            wanted
        } else {
            wanted.min(size(current) + room)
        };
        let unready = size(current) - number(current, "/status/availableReplicas");
        let mut spare = (total - (wanted - missing) - unready.max(0)).max(0);
        let mut sizes = vec![(Arc::clone(current), grown)];
        for set in old {
            let gone = size(set).min(spare);
            spare -= gone;
            sizes.push((Arc::clone(set), size(set) - gone));
        }
        Self { sizes }
    }

    fn apply(self, store: &mut Store, deployment: &Value, now: Timestamp) -> Step {
        for (set, size) in self.sizes {
            let before = number(&set, "/spec/replicas");
            if before == size {
                continue;
            }
            let key = Key::of(kinds::named("replicasets"), &set);
            let scale = json!({"spec": {"replicas": size}});
            let merge = Format::Merge;
            verbs::patch(store, &key, Part::Main, merge, &scale, Occasion::at(now))?;
            let way = if size > before { "up" } else { "down" };
            let message = format!(
                "Scaled {way} replica set {} from {before} to {size}",
                key.name
            );
            events::record(store, deployment, "ScalingReplicaSet", &message, now);
        }
        Ok(())
    }
}

/// How many pods more and fewer than wanted a rollout may have.
fn bounds(deployment: &Value, wanted: i64) -> (i64, i64) {
    let part = |field: &str, up: bool| {
        let value = &deployment["spec"]["strategy"]["rollingUpdate"][field];
        let percent = value.as_str().and_then(|text| text.strip_suffix('%'));
        let percent = percent.and_then(|text| text.parse::<i64>().ok());
        let share = percent.map(|percent| wanted.saturating_mul(percent.clamp(0, 1000)));
        let rounded = share.map(|share| if up { (share + 99) / 100 } else { share / 100 });
        rounded.or(value.as_i64()).unwrap_or(0).max(0)
    };
    let (surge, missing) = (part("maxSurge", true), part("maxUnavailable", false));
    if surge == 0 && missing == 0 {
        return (0, 1);
    }
    (surge, missing.min(wanted))
}

/// Deletes empty sets beyond the history that the deployment keeps.
fn prune(store: &mut Store, deployment: &Value, old: &[Arc<Value>], now: Timestamp) -> Step {
    let kept = usize::try_from(number(deployment, "/spec/revisionHistoryLimit")).unwrap_or(0);
    let mut empty: Vec<_> = old
        .iter()
        .filter(|set| number(set, "/spec/replicas") == 0 && number(set, "/status/replicas") == 0)
        .collect();
    empty.sort_by_key(|set| revision(set));
    let surplus = empty.len().saturating_sub(kept);
    for set in empty.into_iter().take(surplus) {
        let key = Key::of(kinds::named("replicasets"), set);
        verbs::delete(store, &key, &Deletion::default(), Occasion::at(now))?;
    }
    Ok(())
}

/// Writes into the status how far the rollout is.
fn count(store: &mut Store, deployment: &Value, current: Option<&Value>, now: Timestamp) -> Step {
    let key = Key::of(kinds::named("deployments"), deployment);
    let Some(latest) = store.get(&key).cloned() else {
        return Ok(());
    };
    let sets = sets_of(store, deployment);
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
    verbs::patch(store, &key, Part::Status, merge, &status, Occasion::at(now)).map(drop)
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
