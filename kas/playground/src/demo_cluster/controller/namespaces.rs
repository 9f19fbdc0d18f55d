//! Namespaces: what each holds from the start, and what goes with it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::store::{Key, Store};
use super::super::verbs::{self, Deletion, WriteContext};
use super::super::{kinds, object};
use super::Step;

/// Furnishes living namespaces and empties dying ones.
pub(super) fn reconcile(store: &mut Store, now: Timestamp) -> Step {
    let kind = kinds::named("namespaces");
    let namespaces: Vec<_> = store.list(kind, None).cloned().collect();
    for namespace in namespaces {
        let name = object::name(&namespace);
        if object::deleting(&namespace) {
            empty(store, &namespace, now)?;
        } else {
            furnish(store, name, now)?;
        }
    }
    Ok(())
}

fn furnish(store: &mut Store, namespace: &str, now: Timestamp) -> Step {
    let certificate = json!({"metadata": {"name": "kube-root-ca.crt"},
        "data": {"ca.crt": "the demo cluster is served without TLS, on loopback only\n"}});
    let account = json!({"metadata": {"name": "default"}});
    for (plural, object) in [("configmaps", certificate), ("serviceaccounts", account)] {
        let kind = kinds::named(plural);
        let key = Key::new(kind, namespace, object::name(&object));
        if store.get(&key).is_none() {
            let context = WriteContext::at(now);
            verbs::create(store, kind, namespace, object, context)?;
        }
    }
    Ok(())
}

fn empty(store: &mut Store, namespace: &Value, now: Timestamp) -> Step {
    let name = object::name(namespace);
    let content: Vec<_> = store
        .everything()
        .filter(|(key, _)| key.namespace == name)
        .map(|(key, one)| (key.clone(), object::deleting(one)))
        .collect();
    if content.is_empty() && !object::finalized_by_others(namespace) {
        store.remove(&Key::new(kinds::named("namespaces"), "", name));
    }
    for (key, going) in content {
        if !going {
            let context = WriteContext::at(now);
            verbs::delete(store, &key, &Deletion::default(), context)?;
        }
    }
    Ok(())
}
