//! Objects with their versions and a bounded history of what changed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::KindId;
use super::object;

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

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Added,
    Modified,
    Deleted,
}

/// One entry of the history.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) verb: Verb,
    pub(crate) key: Key,
    pub(crate) object: Arc<Value>,
    /// The object before; selectors tell by it who saw it come and go.
    pub(crate) previous: Option<Arc<Value>>,
    bytes: usize,
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
    history: VecDeque<Change>,
    history_bytes: usize,
    revision: u64,
    /// Every change after this revision is in the history.
    forgotten: u64,
    names: StdRng,
}

impl Store {
    /// An empty store whose first change will be `revision + 1`.
    pub(crate) fn new(limits: Limits, revision: u64, seed: u64) -> Self {
        Self {
            limits,
            objects: BTreeMap::new(),
            bytes: 0,
            history: VecDeque::new(),
            history_bytes: 0,
            revision,
            forgotten: revision,
            names: StdRng::seed_from_u64(seed),
        }
    }

    /// The revision of the latest change.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
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
        let revision = self.revision + 1;
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
        self.record(key, verb, Arc::clone(&object), previous, bytes);
        Ok(object)
    }

    /// Takes the object out.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let stored = self.objects.remove(key)?;
        self.bytes -= stored.bytes;
        let mut last = Value::clone(&stored.object);
        stamp(&mut last, self.revision + 1);
        let last = Arc::new(last);
        self.record(
            key.clone(),
            Verb::Deleted,
            Arc::clone(&last),
            Some(stored.object),
            stored.bytes,
        );
        Some(last)
    }

    fn record(
        &mut self,
        key: Key,
        verb: Verb,
        object: Arc<Value>,
        previous: Option<Arc<Value>>,
        bytes: usize,
    ) {
        self.revision += 1;
        self.history_bytes += bytes;
        self.history.push_back(Change {
            revision: self.revision,
            verb,
            key,
            object,
            previous,
            bytes,
        });
        self.forget();
    }

    fn forget(&mut self) {
        while self.history.len() > self.limits.changes
            || self.history_bytes > self.limits.change_bytes
        {
            let Some(oldest) = self.history.pop_front() else {
                return;
            };
            self.history_bytes -= oldest.bytes;
            self.forgotten = oldest.revision;
        }
    }

    /// The changes after `revision`, oldest first.
    ///
    /// # Errors
    /// Says so when some of them have been forgotten.
    pub(crate) fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Change>, Failure> {
        if revision < self.forgotten {
            return Err(Failure::expired(revision, self.forgotten));
        }
        let start = self
            .history
            .partition_point(|change| change.revision <= revision);
        Ok(self.history.range(start..))
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
mod tests {
    use super::super::kinds;
    use super::*;

    fn limits() -> Limits {
        Limits {
            objects: 3,
            bytes: 720,
            object_bytes: 300,
            changes: 4,
            change_bytes: 10_000,
        }
    }

    fn store() -> Store {
        Store::new(limits(), 100, 1)
    }

    fn key(name: &str) -> Key {
        Key::new(kinds::named("configmaps"), "default", name)
    }

    fn object(name: &str, data: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "default"}, "data": {"x": data}})
    }

    fn revisions(store: &Store, since: u64) -> Vec<(u64, Verb)> {
        let changes = store.since(since).unwrap();
        changes.map(|c| (c.revision, c.verb)).collect()
    }

    #[test]
    fn every_change_has_a_revision_of_its_own() {
        let mut store = store();

        store.insert(key("a"), object("a", "1")).unwrap();
        let second = store.replace(key("a"), object("a", "2")).unwrap();
        let last = store.remove(&key("a")).unwrap();

        assert_eq!(object::text(&second, "/metadata/resourceVersion"), "102");
        assert_eq!(object::text(&last, "/metadata/resourceVersion"), "103");
        assert_eq!(
            revisions(&store, 100),
            [
                (101, Verb::Added),
                (102, Verb::Modified),
                (103, Verb::Deleted)
            ]
        );
        assert_eq!(revisions(&store, 102), [(103, Verb::Deleted)]);
    }

    #[test]
    fn a_version_that_changes_nothing_is_not_a_change() {
        let mut store = store();
        store.insert(key("a"), object("a", "1")).unwrap();

        store.replace(key("a"), object("a", "1")).unwrap();

        assert_eq!(store.revision(), 101);
    }

    #[test]
    fn forgotten_revisions_are_gone() {
        let mut store = store();
        store.insert(key("a"), object("a", "0")).unwrap();
        for turn in 1..=5 {
            store
                .replace(key("a"), object("a", &turn.to_string()))
                .unwrap();
        }

        assert_eq!(store.since(101).err().unwrap().code, 410);
        assert_eq!(revisions(&store, 102).len(), 4);
    }

    #[test]
    fn limits_are_answers() {
        let mut store = store();
        let large = "x".repeat(400);
        assert_eq!(
            store
                .insert(key("a"), object("a", &large))
                .unwrap_err()
                .code,
            413
        );
        let half = "x".repeat(200);
        store.insert(key("a"), object("a", &half)).unwrap();
        store.insert(key("b"), object("b", &half)).unwrap();
        assert_eq!(
            store.insert(key("c"), object("c", &half)).unwrap_err().code,
            507
        );

        store.insert(key("c"), object("c", "")).unwrap();
        store.remove(&key("a")).unwrap();
        store.insert(key("d"), object("d", "")).unwrap();
        assert_eq!(
            store.insert(key("e"), object("e", "")).unwrap_err().code,
            507
        );
    }

    #[test]
    fn lists_keep_to_their_kind_and_namespace() {
        let mut store = store();
        let elsewhere = Key::new(kinds::named("configmaps"), "other", "b");
        let pod = Key::new(kinds::named("pods"), "default", "c");
        store.insert(key("a"), object("a", "")).unwrap();
        store.insert(elsewhere, object("b", "")).unwrap();
        store.insert(pod, object("c", "")).unwrap();

        let configmaps = kinds::named("configmaps");
        assert_eq!(store.list(configmaps, None).count(), 2);
        assert_eq!(store.list(configmaps, Some("default")).count(), 1);
        assert_eq!(store.list(configmaps, Some("none")).count(), 0);
    }

    #[test]
    fn uids_look_like_uids() {
        let mut store = store();

        let uid = store.new_uid();

        assert_eq!(uid.len(), 36);
        assert_ne!(uid, store.new_uid());
        assert_eq!(store.new_suffix().len(), 5);
    }
}
