//! What the store promises.

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
