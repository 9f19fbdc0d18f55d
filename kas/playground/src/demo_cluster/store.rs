//! Objects and their versions, within limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::KindId;
use super::object;

mod history;

use history::History;
pub(crate) use history::{Change, Verb};

/// Where an object is found; orders lists by kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) kind: KindId,
    /// Empty for cluster-scoped kinds.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    /// The key of an object of that kind.
    pub(crate) fn new(kind: KindId, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The key of `object`, which is of that kind.
    pub(crate) fn of(kind: KindId, object: &Value) -> Self {
        Self::new(kind, object::namespace(object), object::name(object))
    }
}

/// How much the store takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) objects: usize,
    pub(crate) bytes: usize,
    pub(crate) object_bytes: usize,
    pub(crate) changes: usize,
    pub(crate) change_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            objects: 10_000,
            bytes: 64 << 20,
            object_bytes: 3 << 19,
            changes: 4_000,
            change_bytes: 16 << 20,
        }
    }
}

#[derive(Debug)]
struct Stored {
    object: Arc<Value>,
    bytes: usize,
}

/// The state of the demo cluster.
#[derive(Debug)]
pub(crate) struct Store {
    limits: Limits,
    objects: BTreeMap<Key, Stored>,
    bytes: usize,
    history: History,
    names: StdRng,
}

impl Store {
    /// An empty store whose first change will be `revision + 1`.
    pub(crate) fn new(limits: Limits, revision: u64, seed: u64) -> Self {
        Self {
            limits,
            objects: BTreeMap::new(),
            bytes: 0,
            history: History::new(limits.changes, limits.change_bytes, revision),
            names: StdRng::seed_from_u64(seed),
        }
    }

    /// The revision of the latest change.
    pub(crate) fn revision(&self) -> u64 {
        self.history.revision()
    }

    /// The object under that key.
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key).map(|stored| &stored.object)
    }

    /// The objects of a kind, in one namespace or in all.
    pub(crate) fn list<'a>(
        &'a self,
        kind: KindId,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Value>> {
        self.objects
            .range(Key::new(kind, namespace.unwrap_or_default(), "")..)
            .take_while(move |(key, _)| {
                key.kind == kind && namespace.is_none_or(|namespace| key.namespace == namespace)
            })
            .map(|(_, stored)| &stored.object)
    }

    /// Every object with its key.
    pub(crate) fn everything(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects
            .iter()
            .map(|(key, stored)| (key, &stored.object))
    }

    /// Puts a new object in.
    pub(crate) fn insert(&mut self, key: Key, object: Value) -> Result<Arc<Value>, Failure> {
        if self.objects.contains_key(&key) {
            return Err(Failure::already_exists(key.kind, &key.name));
        }
        if self.objects.len() >= self.limits.objects {
            return Err(Failure::full("too many objects"));
        }
        self.put(key, object, Verb::Added, None)
    }

    /// Puts the object's next version in; nothing happens when nothing changed.
    pub(crate) fn replace(&mut self, key: Key, object: Value) -> Result<Arc<Value>, Failure> {
        let Some(previous) = self.get(&key).cloned() else {
            return Err(Failure::not_found(key.kind, &key.name));
        };
        if same(&previous, &object) {
            return Ok(previous);
        }
        self.put(key, object, Verb::Modified, Some(previous))
    }

    fn put(
        &mut self,
        key: Key,
        mut object: Value,
        verb: Verb,
        previous: Option<Arc<Value>>,
    ) -> Result<Arc<Value>, Failure> {
        let revision = self.revision() + 1;
        stamp(&mut object, revision);
        let bytes = object::size(&object);
        let freed = self.objects.get(&key).map_or(0, |stored| stored.bytes);
        if bytes > self.limits.object_bytes {
            return Err(Failure::too_large(self.limits.object_bytes));
        }
        if self.bytes - freed + bytes > self.limits.bytes {
            return Err(Failure::full("too many bytes"));
        }
        let object = Arc::new(object);
        self.bytes = self.bytes - freed + bytes;
        let stored = Stored {
            object: Arc::clone(&object),
            bytes,
        };
        self.objects.insert(key.clone(), stored);
        self.history.record(Change {
            revision,
            verb,
            key,
            object: Arc::clone(&object),
            previous,
            bytes,
        });
        Ok(object)
    }

    /// Takes the object out.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let stored = self.objects.remove(key)?;
        self.bytes -= stored.bytes;
        let mut last = Value::clone(&stored.object);
        let revision = self.revision() + 1;
        stamp(&mut last, revision);
        let last = Arc::new(last);
        self.history.record(Change {
            revision,
            verb: Verb::Deleted,
            key: key.clone(),
            object: Arc::clone(&last),
            previous: Some(stored.object),
            bytes: stored.bytes,
        });
        Some(last)
    }

    /// The changes after `revision`, oldest first.
    ///
    /// # Errors
    /// Says so when some of them have been forgotten.
    pub(crate) fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Change>, Failure> {
        self.history.since(revision)
    }

    /// A fresh `metadata.uid`.
    pub(crate) fn new_uid(&mut self) -> String {
        let bits = self.names.random::<u128>();
        let hex = format!("{bits:032x}");
        format!(
            "{}-{}-4{}-a{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[13..16],
            &hex[17..20],
            &hex[20..]
        )
    }

    /// Five characters that end a generated name.
    pub(crate) fn new_suffix(&mut self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..5)
            .map(|_| char::from(LETTERS[self.names.random_range(0..LETTERS.len())]))
            .collect()
    }
}

fn stamp(object: &mut Value, revision: u64) {
    object::set(
        object,
        "metadata",
        "resourceVersion",
        json!(revision.to_string()),
    );
}

/// Whether two versions differ in nothing but their revision.
fn same(previous: &Value, next: &Value) -> bool {
    let mut next = next.clone();
    object::set(
        &mut next,
        "metadata",
        "resourceVersion",
        previous["metadata"]["resourceVersion"].clone(),
    );
    *previous == next
}

#[cfg(test)]
mod tests;
