//! Garbage collection: what lost all of its owners goes.

use std::collections::HashSet;

use jiff::Timestamp;

use super::super::object::{self, list, text};
use super::super::store::Store;
use super::super::verbs::{self, Deletion, WriteContext};
use super::Step;

/// Deletes every object whose owners are all gone.
pub(super) fn collect(store: &mut Store, now: Timestamp) -> Step {
    let living: HashSet<_> = store
        .everything()
        .map(|(_, one)| object::uid(one))
        .collect();
    let orphans: Vec<_> = store
        .everything()
        .filter(|(_, one)| !object::deleting(one))
        .filter(|(_, one)| {
            let owners = list(one, "/metadata/ownerReferences");
            let alive = |owner| living.contains(text(owner, "/uid"));
            !owners.is_empty() && !owners.iter().any(alive)
        })
        .map(|(key, _)| key.clone())
        .collect();
    for key in orphans {
        let context = WriteContext::at(now);
        verbs::delete(store, &key, &Deletion::default(), context)?;
    }
    Ok(())
}
