//! What a set of objects is now. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use proto::graph::rpc::{Object, Update};

/// What an object costs besides its texts.
const OVERHEAD: usize = 256;

/// Objects by uid, as far as they were told.
#[derive(Debug, Default)]
pub struct Mirror {
    objects: BTreeMap<String, Object>,
    version: String,
    bytes: usize,
}

impl Mirror {
    /// The version that the objects have together.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// About how much memory the objects take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a change, and gives what is new of it.
    pub fn apply(&mut self, mut update: Update) -> Update {
        update.changed.retain(|object| {
            let known = self.objects.get(&object.uid);
            known.is_none_or(|it| is_newer(&object.resource_version, &it.resource_version))
        });
        for object in &update.changed {
            self.put(object.clone());
        }
        update.removed.retain(|uid| self.remove(uid));
        if !update.version.is_empty() {
            self.version.clone_from(&update.version);
        }
        update
    }

    /// Takes the objects that there are, and gives what that changes.
    pub fn replace(&mut self, all: Vec<Object>, version: String) -> Update {
        let there: HashSet<_> = all.iter().map(|object| object.uid.clone()).collect();
        let gone = self.objects.keys().filter(|uid| !there.contains(*uid));
        let removed: Vec<_> = gone.cloned().collect();
        for uid in &removed {
            self.remove(uid);
        }
        let differs = |object: &Object| {
            let known = self.objects.get(&object.uid);
            known.is_none_or(|it| it.resource_version != object.resource_version)
        };
        let changed: Vec<_> = all.into_iter().filter(differs).collect();
        for object in &changed {
            self.put(object.clone());
        }
        self.version.clone_from(&version);
        Update {
            changed,
            removed,
            synced: true,
            version,
        }
    }

    /// What somebody must be told who knows these versions by uid.
    #[must_use]
    pub fn difference(&self, known: &HashMap<String, String>) -> Update {
        let told = |object: &&Object| known.get(&object.uid) != Some(&object.resource_version);
        let gone = known.keys().filter(|uid| !self.objects.contains_key(*uid));
        Update {
            changed: self.objects.values().filter(told).cloned().collect(),
            removed: gone.cloned().collect(),
            synced: true,
            version: self.version.clone(),
        }
    }

    fn put(&mut self, object: Object) {
        self.bytes += size(&object);
        if let Some(old) = self.objects.insert(object.uid.clone(), object) {
            self.bytes -= size(&old);
        }
    }

    fn remove(&mut self, uid: &str) -> bool {
        let old = self.objects.remove(uid);
        self.bytes -= old.as_ref().map_or(0, size);
        old.is_some()
    }
}

/// About how much memory an object takes.
pub(super) fn size(object: &Object) -> usize {
    let labels = object.labels.iter();
    let labels: usize = labels.map(|(key, value)| key.len() + value.len()).sum();
    let owners = object
        .owners
        .iter()
        .map(|it| OVERHEAD + it.api_version.len() + it.kind.len() + it.name.len() + it.uid.len());
    let texts = [
        &object.api_version,
        &object.kind,
        &object.namespace,
        &object.name,
        &object.uid,
        &object.resource_version,
    ];
    let texts: usize = texts.map(String::len).into_iter().sum();
    OVERHEAD + labels + texts + object.json.len() + owners.sum::<usize>()
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
    use super::*;
    use proptest::prelude::*;

    fn object(uid: u8, version: u64) -> Object {
        Object {
            uid: format!("u{uid}"),
            resource_version: version.to_string(),
            ..Object::default()
        }
    }

    fn versions(mirror: &Mirror) -> HashMap<String, String> {
        let all = mirror.objects.values();
        all.map(|it| (it.uid.clone(), it.resource_version.clone()))
            .collect()
    }

    /// Who is told an update: nothing known is added, nothing unknown removed.
    fn tell(known: &mut HashMap<String, String>, update: Update) {
        for object in update.changed {
            let old = known.insert(object.uid, object.resource_version.clone());
            assert!(old.is_none_or(|old| is_newer(&object.resource_version, &old)));
        }
        for uid in update.removed {
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
            let (mut told, mut apart) = (HashMap::new(), HashMap::new());
            let mut version = 0;
            for (step, heard) in steps {
                version += 1;
                let mut update = Update { version: version.to_string(), ..Update::default() };
                match step {
                    Step::Change(uid) => {
                        cluster.insert(uid, version);
                        update.changed.push(object(uid, version));
                    }
                    Step::Remove(uid) => {
                        cluster.remove(&uid);
                        update.removed.push(format!("u{uid}"));
                    }
                    Step::Cut => {
                        let all = cluster.iter().map(|(uid, version)| object(*uid, *version));
                        tell(&mut told, far.replace(all.collect(), version.to_string()));
                    }
                    Step::Again => {
                        update.changed = cluster.iter().map(|(uid, version)| object(*uid, *version)).collect();
                        prop_assert!(near.apply(update.clone()).changed.is_empty());
                    }
                }
                let news = near.apply(update);
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
            let expected: usize = near.objects.values().map(size).sum();
            prop_assert_eq!(near.bytes(), expected);
        }
    }
}
