//! What the controllers make of the objects, second by second.

use serde_json::{Value, json};

use super::super::object::{self, list, number, text};
use super::super::store::{Key, Limits};
use super::super::verbs::{self, Deletion, Part, WriteContext};
use super::super::{kinds, patch::Format, seed};
use super::*;

/// A cluster whose time is turned by hand.
struct World {
    store: Store,
    state: ControllerState,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        let mut store = Store::new(Limits::default(), 1, 1);
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        seed::plant(&mut store, now).unwrap();
        let state = ControllerState::default();
        let mut world = Self { store, state, now };
        world.settle();
        world
    }

    /// Lets time pass until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..500 {
            let before = self.store.revision();
            let due = reconcile(&mut self.store, &mut self.state, self.now);
            match due {
                Some(due) => self.now = due.max(self.now),
                None if self.store.revision() == before => return,
                None => {}
            }
        }
        panic!("the controllers do not come to rest");
    }

    fn count(&self, plural: &str, namespace: &str) -> usize {
        self.store
            .list(kinds::named(plural), Some(namespace))
            .count()
    }

    fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<&Value> {
        let key = Key::new(kinds::named(plural), namespace, name);
        self.store.get(&key).map(|object| &**object)
    }

    fn merge(&mut self, plural: &str, name: &str, change: &Value) {
        let key = Key::new(kinds::named(plural), "default", name);
        let context = WriteContext::at(self.now);
        verbs::patch(
            &mut self.store,
            &key,
            Part::Main,
            Format::Merge,
            change,
            context,
        )
        .unwrap();
    }

    fn create(&mut self, plural: &str, namespace: &str, object: Value) {
        let kind = kinds::named(plural);
        let context = WriteContext::at(self.now);
        verbs::create(&mut self.store, kind, namespace, object, context).unwrap();
    }

    fn delete(&mut self, plural: &str, namespace: &str, name: &str) {
        let key = Key::new(kinds::named(plural), namespace, name);
        let context = WriteContext::at(self.now);
        verbs::delete(&mut self.store, &key, &Deletion::default(), context).unwrap();
    }
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}})
}

#[test]
fn a_deployment_becomes_running_pods() {
    let world = World::new();

    let pods: Vec<_> = world.store.list(kinds::named("pods"), None).collect();
    assert_eq!(pods.len(), 2);
    assert!(
        pods.iter()
            .all(|pod| text(pod, "/status/phase") == "Running")
    );
    let hello = world.get("deployments", "default", "hello").unwrap();
    assert_eq!(number(hello, "/status/availableReplicas"), 2);
    assert_eq!(
        hello["status"]["observedGeneration"],
        hello["metadata"]["generation"]
    );
    let slice = world.get("endpointslices", "default", "hello").unwrap();
    assert_eq!(list(slice, "/endpoints").len(), 2);
}

#[test]
fn a_new_template_replaces_the_pods_and_keeps_the_old_set() {
    let mut world = World::new();
    let container = json!([{"name": "hello", "image": "hello:2"}]);

    let template = json!({"spec": {"template": {"spec": {"containers": container}}}});
    world.merge("deployments", "hello", &template);
    world.settle();

    let sizes: Vec<_> = world
        .store
        .list(kinds::named("replicasets"), None)
        .map(|set| {
            (
                text(set, "/spec/template/spec/containers/0/image"),
                number(set, "/spec/replicas"),
            )
        })
        .collect();
    assert_eq!(sizes.len(), 2);
    assert!(sizes.contains(&("hello:2", 2)), "{sizes:?}");
    assert!(
        sizes.contains(&("registry.example/hello:1.0", 0)),
        "{sizes:?}"
    );
    assert_eq!(world.count("pods", "default"), 2);
}

#[test]
fn a_deployment_takes_what_it_made_along() {
    let mut world = World::new();

    world.delete("deployments", "default", "hello");
    world.settle();

    assert_eq!(world.count("replicasets", "default"), 0);
    assert_eq!(world.count("pods", "default"), 0);
}

#[test]
fn a_namespace_takes_its_content_along() {
    let mut world = World::new();
    world.create("namespaces", "", json!({"metadata": {"name": "team"}}));
    world.create("pods", "team", pod("p"));
    world.settle();
    assert!(world.get("serviceaccounts", "team", "default").is_some());

    world.delete("namespaces", "", "team");
    world.settle();

    assert!(world.get("namespaces", "", "team").is_none());
    let left = world.store.everything();
    assert_eq!(left.filter(|(key, _)| key.namespace == "team").count(), 0);
}

#[test]
fn finalizers_keep_a_pod_until_they_are_gone() {
    let mut world = World::new();
    let mut kept = pod("kept");
    kept["metadata"]["finalizers"] = json!(["example.com/wait"]);
    world.create("pods", "default", kept);
    world.settle();

    world.delete("pods", "default", "kept");
    world.settle();
    assert!(object::deleting(
        world.get("pods", "default", "kept").unwrap()
    ));

    world.merge("pods", "kept", &json!({"metadata": {"finalizers": null}}));
    world.settle();
    assert!(world.get("pods", "default", "kept").is_none());
}

#[test]
fn more_pods_than_fit_wait_for_room() {
    let mut world = World::new();

    world.merge("deployments", "hello", &json!({"spec": {"replicas": 600}}));
    world.settle();

    let phase = |phase: &str| {
        let pods = world.store.list(kinds::named("pods"), None);
        pods.filter(|pod| text(pod, "/status/phase") == phase)
            .count()
    };
    assert_eq!((phase("Running"), phase("Pending")), (500, 100));
}
