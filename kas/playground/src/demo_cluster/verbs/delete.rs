//! Deleting: at once, gracefully, or when the finalizers allow it.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::kinds;
use super::super::store::{Key, Store};
use super::super::{clock, object};
use super::{WriteContext, existing};

const PROTECTED: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// What the caller asked for in its `DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deletion {
    grace: Option<i64>,
    uid: Option<String>,
    revision: Option<String>,
    orphan: bool,
}

/// What became of the object.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is gone.
    Gone(Arc<Value>),
    /// It goes away on its own in a while.
    Going(Arc<Value>),
}

impl Deletion {
    /// Reads a `DeleteOptions` object; query parameters count where the body says nothing.
    pub(crate) fn read(options: &Value, grace: Option<&str>, propagation: Option<&str>) -> Self {
        let precondition =
            |field: &str| options["preconditions"][field].as_str().map(str::to_owned);
        let policy = options["propagationPolicy"].as_str().or(propagation);
        Self {
            grace: options["gracePeriodSeconds"]
                .as_i64()
                .or_else(|| grace?.parse().ok()),
            uid: precondition("uid"),
            revision: precondition("resourceVersion"),
            orphan: policy == Some("Orphan") || options["orphanDependents"] == true,
        }
    }
}

/// Begins or finishes the deletion of an object.
pub(crate) fn delete(
    store: &mut Store,
    key: &Key,
    deletion: &Deletion,
    context: WriteContext,
) -> Result<Outcome, Failure> {
    let old = existing(store, key)?;
    preconditions(key, deletion, &old)?;
    let namespace = key.kind == kinds::named("namespaces");
    if namespace && PROTECTED.contains(&key.name.as_str()) {
        let why = "this namespace may not be deleted";
        return Err(Failure::forbidden(key.kind, &key.name, why));
    }
    let grace = grace(key, deletion, &old);
    let stays = grace > 0 || namespace || object::finalized_by_others(&old);
    if context.dry_run {
        return Ok(Outcome::Gone(old));
    }
    if deletion.orphan {
        disown(store, &old)?;
    }
    if stays {
        let next = marked(&old, grace, namespace, context.now);
        return store.replace(key.clone(), next).map(Outcome::Going);
    }
    store
        .remove(key)
        .map(Outcome::Gone)
        .ok_or_else(|| Failure::not_found(key.kind, &key.name))
}

fn preconditions(key: &Key, deletion: &Deletion, old: &Value) -> Result<(), Failure> {
    for (wanted, field) in [
        (&deletion.uid, "/metadata/uid"),
        (&deletion.revision, "/metadata/resourceVersion"),
    ] {
        let is = object::text(old, field);
        if wanted.as_deref().is_some_and(|wanted| wanted != is) {
            let why = format!("the {} in the precondition does not match", &field[10..]);
            return Err(Failure::conflict(key.kind, &key.name, &why));
        }
    }
    Ok(())
}

/// Only pods that reached a node take their time.
fn grace(key: &Key, deletion: &Deletion, old: &Value) -> i64 {
    if key.kind != kinds::named("pods") || object::text(old, "/spec/nodeName").is_empty() {
        return 0;
    }
    let own = || object::number(old, "/spec/terminationGracePeriodSeconds");
    deletion.grace.unwrap_or_else(own).clamp(0, 86_400)
}

fn marked(old: &Value, grace: i64, namespace: bool, now: Timestamp) -> Value {
    let mut next = old.clone();
    if !object::deleting(old) {
        let end = now.saturating_add(SignedDuration::from_secs(grace));
        let end = json!(clock::seconds(end.unwrap_or(now)));
        object::set(&mut next, "metadata", "deletionTimestamp", end);
        let grace = json!(grace);
        object::set(&mut next, "metadata", "deletionGracePeriodSeconds", grace);
    }
    if namespace {
        object::set(&mut next, "status", "phase", json!("Terminating"));
    }
    next
}

/// Takes the owner out of what it owned, so that nothing follows it.
fn disown(store: &mut Store, owner: &Value) -> Result<(), Failure> {
    let uid = object::uid(owner);
    let owned: Vec<_> = store
        .everything()
        .filter(|(_, one)| object::owned_by(one, uid))
        .map(|(key, one)| (key.clone(), Value::clone(one)))
        .collect();
    for (key, mut next) in owned {
        let owners = next.pointer_mut("/metadata/ownerReferences");
        if let Some(Value::Array(owners)) = owners {
            owners.retain(|one| one["uid"] != uid);
        }
        store.replace(key, next)?;
    }
    Ok(())
}

/// Removes an object whose deletion waited only for its finalizers.
pub(crate) fn remove_when_free(store: &mut Store, key: &Key) {
    let free = store.get(key).is_some_and(|object| {
        object::deleting(object)
            && !object::finalized_by_others(object)
            && object::number(object, "/metadata/deletionGracePeriodSeconds") == 0
            && key.kind != kinds::named("namespaces")
    });
    if free {
        store.remove(key);
    }
}

impl Outcome {
    /// The object, gone or going.
    pub(crate) fn into_object(self) -> Arc<Value> {
        match self {
            Self::Gone(object) | Self::Going(object) => object,
        }
    }
}
