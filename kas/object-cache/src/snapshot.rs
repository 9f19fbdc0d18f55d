//! The objects of a resource at one version, and the difference to another state. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use proto::graph::rpc::Object;

use crate::budget::CachedObject;

/// Objects by uid.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    objects: BTreeMap<String, CachedObject>,
    version: String,
}

/// A change from one version to the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    /// Objects that were added or modified.
    pub(crate) changed: Vec<CachedObject>,
    /// The uids of the objects that were removed.
    pub(crate) removed: Vec<String>,
    /// The resource version of the collection behind the change.
    pub(crate) version: String,
}

impl Snapshot {
    /// The resource version of the collection.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The same object at the same version, if it is present.
    pub(crate) fn known(&self, object: &Object) -> Option<CachedObject> {
        let known = self.objects.get(&object.uid)?;
        (known.resource_version == object.resource_version).then(|| known.clone())
    }

    /// Applies a change; returns the part of it that changed anything.
    pub(crate) fn apply(&mut self, mut change: Change) -> Change {
        change.changed.retain(|object| {
            let known = self.objects.get(&object.uid);
            known.is_none_or(|it| is_newer(&object.resource_version, &it.resource_version))
        });
        for object in &change.changed {
            self.put(object.clone());
        }
        change
            .removed
            .retain(|uid| self.objects.remove(uid).is_some());
        if !change.version.is_empty() {
            self.version.clone_from(&change.version);
        }
        change
    }

    /// Replaces all objects; returns the difference.
    pub(crate) fn replace(&mut self, all: Vec<CachedObject>, version: String) -> Change {
        let listed: HashSet<&str> = all.iter().map(|object| object.uid.as_str()).collect();
        let gone = |uid: &&String| !listed.contains(uid.as_str());
        let removed: Vec<_> = self.objects.keys().filter(gone).cloned().collect();
        for uid in &removed {
            self.objects.remove(uid);
        }
        let changed: Vec<_> = all
            .into_iter()
            .filter(|object| self.known(object).is_none())
            .collect();
        for object in &changed {
            self.put(object.clone());
        }
        self.version.clone_from(&version);
        Change {
            changed,
            removed,
            version,
        }
    }

    /// The change that brings somebody up to date who has these versions by uid.
    pub(crate) fn difference(&self, known: &HashMap<String, String>) -> Change {
        let differs =
            |object: &&CachedObject| known.get(&object.uid) != Some(&object.resource_version);
        let gone = known.keys().filter(|uid| !self.objects.contains_key(*uid));
        Change {
            changed: self.objects.values().filter(differs).cloned().collect(),
            removed: gone.cloned().collect(),
            version: self.version.clone(),
        }
    }

    fn put(&mut self, object: CachedObject) {
        self.objects.insert(object.uid.clone(), object);
    }
}

/// Whether a version is certainly older; false if the two cannot be compared.
pub(crate) fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

/// Resource versions of one collection are growing numbers; any other text counts as newer
/// when it differs.
fn is_newer(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        budget::{Budget, Usage},
        limits::Limits,
    };

    fn usage() -> Arc<Usage> {
        Budget::new(&Limits::of_bytes(usize::MAX, usize::MAX)).usage(0)
    }

    fn object(usage: &Arc<Usage>, uid: u8, version: u64) -> CachedObject {
        let object = Object {
            uid: format!("u{uid}"),
            resource_version: version.to_string(),
            ..Object::default()
        };
        CachedObject::new(object, usage)
    }

    fn versions(snapshot: &Snapshot) -> HashMap<String, String> {
        let all = snapshot.objects.values();
        all.map(|it| (it.uid.clone(), it.resource_version.clone()))
            .collect()
    }

    /// A watcher that applies a change: nothing it has is added, nothing it lacks is removed.
    fn deliver(known: &mut HashMap<String, String>, change: Change) {
        for object in change.changed {
            let old = known.insert(object.uid.clone(), object.resource_version.clone());
            assert!(old.is_none_or(|old| is_newer(&object.resource_version, &old)));
        }
        for uid in change.removed {
            assert!(known.remove(&uid).is_some());
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Change(u8),
        Remove(u8),
        /// The watcher was cut off and is back only now.
        Cut,
        /// The same change once more.
        Again,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u8..20).prop_map(Step::Change),
            3 => (0u8..20).prop_map(Step::Remove),
            1 => Just(Step::Cut),
            1 => Just(Step::Again),
        ]
    }

    proptest! {
        #[test]
        fn a_watcher_that_applies_all_changes_has_the_objects_that_there_are(steps in prop::collection::vec((step(), any::<bool>()), 0..300)) {
            let mut cluster: BTreeMap<u8, u64> = BTreeMap::new();
            let (mut near, mut far) = (Snapshot::default(), Snapshot::default());
            let usage = usage();
            let (mut held, mut apart) = (HashMap::new(), HashMap::new());
            let mut version = 0;
            for (step, delivered) in steps {
                version += 1;
                let mut change = Change { version: version.to_string(), ..Change::default() };
                match step {
                    Step::Change(uid) => {
                        cluster.insert(uid, version);
                        change.changed.push(object(&usage, uid, version));
                    }
                    Step::Remove(uid) => {
                        cluster.remove(&uid);
                        change.removed.push(format!("u{uid}"));
                    }
                    Step::Cut => {
                        let all = cluster.iter().map(|(uid, version)| object(&usage, *uid, *version));
                        deliver(&mut held, far.replace(all.collect(), version.to_string()));
                    }
                    Step::Again => {
                        change.changed = cluster.iter().map(|(uid, version)| object(&usage, *uid, *version)).collect();
                        prop_assert!(near.apply(change.clone()).changed.is_empty());
                    }
                }
                let news = near.apply(change);
                if delivered {
                    // The far one missed some of it and is given everything.
                    let all = near.objects.values().cloned().collect();
                    deliver(&mut held, far.replace(all, near.version().to_owned()));
                    let missing = near.difference(&apart);
                    deliver(&mut apart, missing);
                    prop_assert_eq!(&held, &versions(&near));
                    prop_assert_eq!(&apart, &versions(&near));
                } else {
                    deliver(&mut held, far.apply(news));
                }
            }
        }
    }
}
