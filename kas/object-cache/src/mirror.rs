//! What a set of objects is now. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use proto::graph::rpc::Object;

use super::budget::Kept;

/// What an object costs besides its texts: its own fields, and its place here.
const OBJECT_BYTES: usize = 400;
/// The same of an owner.
const OWNER_BYTES: usize = 128;
/// The same of a label.
const LABEL_BYTES: usize = 96;

/// Objects by uid, as far as they were told.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    objects: BTreeMap<String, Kept>,
    version: String,
}

/// What is new.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    /// Objects that are new, or other than before.
    pub(super) changed: Vec<Kept>,
    /// The uids of those that are gone.
    pub(super) removed: Vec<String>,
    /// The version that all have together.
    pub(super) version: String,
}

impl Mirror {
    /// The version that the objects have together.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The same object in the same version, if it is here.
    pub(super) fn known(&self, object: &Object) -> Option<Kept> {
        let known = self.objects.get(&object.uid)?;
        (known.resource_version == object.resource_version).then(|| known.clone())
    }

    /// Takes a change, and gives what is new of it.
    pub(super) fn apply(&mut self, mut change: Change) -> Change {
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

    /// Takes the objects that there are, and gives what that changes.
    pub(super) fn replace(&mut self, all: Vec<Kept>, version: String) -> Change {
        let there: HashSet<&str> = all.iter().map(|object| object.uid.as_str()).collect();
        let gone = |uid: &&String| !there.contains(uid.as_str());
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

    /// What somebody must be told who knows these versions by uid.
    pub(super) fn difference(&self, known: &HashMap<String, String>) -> Change {
        let told = |object: &&Kept| known.get(&object.uid) != Some(&object.resource_version);
        let gone = known.keys().filter(|uid| !self.objects.contains_key(*uid));
        Change {
            changed: self.objects.values().filter(told).cloned().collect(),
            removed: gone.cloned().collect(),
            version: self.version.clone(),
        }
    }

    fn put(&mut self, object: Kept) {
        self.objects.insert(object.uid.clone(), object);
    }
}

/// About how much memory an object takes.
pub(super) fn size(object: &Object) -> usize {
    let labels = object.labels.iter();
    let labels = labels.map(|(key, value)| LABEL_BYTES + key.len() + value.len());
    let owners = object.owners.iter().map(|it| {
        OWNER_BYTES + it.api_version.len() + it.kind.len() + it.name.len() + it.uid.len()
    });
    let texts = [
        &object.api_version,
        &object.kind,
        &object.namespace,
        &object.name,
        &object.uid,
        &object.resource_version,
    ];
    let texts: usize = texts.map(String::len).into_iter().sum();
    let parts = labels.sum::<usize>() + owners.sum::<usize>();
    OBJECT_BYTES + parts + texts + object.json.len()
}

/// Whether a version is surely older.
pub(super) fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

/// Kubernetes' resource versions of one resource are numbers that grow; of what
/// is none, all that is different counts as newer.
fn is_newer(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        Limits,
        budget::{Account, Budget},
    };

    fn account() -> Arc<Account> {
        let limits = Limits {
            bytes: usize::MAX,
            bytes_of_group: usize::MAX,
            bytes_reserved: 0,
            bytes_each: usize::MAX,
            hubs: 1,
            linger: Duration::MAX,
        };
        Budget::new(&limits).account(0)
    }

    fn object(account: &Arc<Account>, uid: u8, version: u64) -> Kept {
        let object = Object {
            uid: format!("u{uid}"),
            resource_version: version.to_string(),
            ..Object::default()
        };
        Kept::new(object, account)
    }

    fn versions(mirror: &Mirror) -> HashMap<String, String> {
        let all = mirror.objects.values();
        all.map(|it| (it.uid.clone(), it.resource_version.clone()))
            .collect()
    }

    /// Who is told a change: nothing known is added, nothing unknown removed.
    fn tell(known: &mut HashMap<String, String>, change: Change) {
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
        /// The one who is told is cut off, and back only now.
        Cut,
        /// Told again what was told before.
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
        fn whoever_is_told_knows_what_there_is(steps in prop::collection::vec((step(), any::<bool>()), 0..300)) {
            let mut cluster: BTreeMap<u8, u64> = BTreeMap::new();
            let (mut near, mut far) = (Mirror::default(), Mirror::default());
            let account = account();
            let (mut told, mut apart) = (HashMap::new(), HashMap::new());
            let mut version = 0;
            for (step, heard) in steps {
                version += 1;
                let mut change = Change { version: version.to_string(), ..Change::default() };
                match step {
                    Step::Change(uid) => {
                        cluster.insert(uid, version);
                        change.changed.push(object(&account, uid, version));
                    }
                    Step::Remove(uid) => {
                        cluster.remove(&uid);
                        change.removed.push(format!("u{uid}"));
                    }
                    Step::Cut => {
                        let all = cluster.iter().map(|(uid, version)| object(&account, *uid, *version));
                        tell(&mut told, far.replace(all.collect(), version.to_string()));
                    }
                    Step::Again => {
                        change.changed = cluster.iter().map(|(uid, version)| object(&account, *uid, *version)).collect();
                        prop_assert!(near.apply(change.clone()).changed.is_empty());
                    }
                }
                let news = near.apply(change);
                if heard {
                    // The far one missed some of it: it is given all.
                    let all = near.objects.values().cloned().collect();
                    tell(&mut told, far.replace(all, near.version().to_owned()));
                    let missing = near.difference(&apart);
                    tell(&mut apart, missing);
                    prop_assert_eq!(&told, &versions(&near));
                    prop_assert_eq!(&apart, &versions(&near));
                } else {
                    tell(&mut told, far.apply(news));
                }
            }
        }
    }
}
