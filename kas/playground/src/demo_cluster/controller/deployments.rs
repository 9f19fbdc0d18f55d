//! Deployments: a replica set for each version of the template, and the rollout between them.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::failure::Failure;
use super::super::kinds;
use super::super::object::{self, number};
use super::super::patch::Format;
use super::super::store::{Key, Store};
use super::super::verbs::{self, Deletion, Part, WriteContext};
use super::Step;

mod rollout;
mod status;

use rollout::Rollout;

const HASH_LABEL: &str = "pod-template-hash";
const REVISION_ANNOTATION: &str = "deployment.kubernetes.io/revision";

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
    let sets = sets_of(store, deployment);
    status::write(store, deployment, current.as_deref(), &sets, now)
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
                .map(|labels| labels.shift_remove(HASH_LABEL));
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
            labels.insert(HASH_LABEL.to_owned(), json!(hash));
        }
    }
    let set = json!({
        "metadata": {"name": format!("{}-{hash}", object::name(deployment)),
                     "labels": template["metadata"]["labels"],
                     "annotations": {REVISION_ANNOTATION: next_revision(store, deployment).to_string()},
                     "ownerReferences": [object::owner_reference(deployment)]},
        "spec": {"replicas": 0, "selector": selector, "template": template}});
    let kind = kinds::named("replicasets");
    let namespace = object::namespace(deployment);
    verbs::create(store, kind, namespace, set, WriteContext::at(now))
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
    let revision = object["metadata"]["annotations"][REVISION_ANNOTATION].as_str();
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
    let annotation =
        json!({"metadata": {"annotations": {REVISION_ANNOTATION: number.to_string()}}});
    for (plural, object) in [("replicasets", current), ("deployments", deployment)] {
        let key = Key::of(kinds::named(plural), object);
        let merge = Format::Merge;
        verbs::patch(
            store,
            &key,
            Part::Main,
            merge,
            &annotation,
            WriteContext::at(now),
        )?;
    }
    Ok(())
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
        verbs::delete(store, &key, &Deletion::default(), WriteContext::at(now))?;
    }
    Ok(())
}
