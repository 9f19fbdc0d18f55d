//! What writes promise, also for bodies that nobody would write.

use proptest::prelude::*;

use super::super::controller::{self, ControllerState};
use super::super::seed;
use super::super::store::Limits;
use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn store() -> Store {
    let mut store = Store::new(Limits::default(), 1, 1);
    seed::plant(&mut store, now()).unwrap();
    store
}

fn welcome() -> Key {
    Key::new(kinds::named("configmaps"), "default", "welcome")
}

fn merge(store: &mut Store, key: &Key, change: &Value) -> Result<Arc<Value>, Failure> {
    let context = WriteContext::at(now());
    patch(store, key, Part::Main, Format::Merge, change, context)
}

#[test]
fn only_the_latest_version_may_be_replaced() {
    let mut store = store();
    let old = Value::clone(store.get(&welcome()).unwrap());
    merge(&mut store, &welcome(), &json!({"data": {"a": "1"}})).unwrap();

    let stale = update(
        &mut store,
        &welcome(),
        Part::Main,
        old,
        WriteContext::at(now()),
    );

    assert_eq!(stale.unwrap_err().code, 409);
}

#[test]
fn the_status_is_written_apart() {
    let mut store = store();
    let key = Key::new(kinds::named("deployments"), "default", "hello");
    let change = json!({"spec": {"replicas": 7}, "status": {"replicas": 9}});

    let main = merge(&mut store, &key, &change).unwrap();
    let context = WriteContext::at(now());
    let status = patch(
        &mut store,
        &key,
        Part::Status,
        Format::Merge,
        &change,
        context,
    )
    .unwrap();

    assert_eq!(
        (&main["spec"]["replicas"], &main["status"]),
        (&json!(7), &Value::Null)
    );
    assert_eq!(status["status"]["replicas"], 9);
    assert_eq!(main["metadata"]["generation"], 2);
    assert_eq!(status["metadata"]["generation"], 2);
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut store = store();
    let before = store.revision();
    let context = WriteContext {
        dry_run: true,
        ..WriteContext::at(now())
    };
    let body = json!({"metadata": {"name": "dry"}});
    let kind = kinds::named("configmaps");

    create(&mut store, kind, "default", body, context).unwrap();
    delete(&mut store, &welcome(), &Deletion::default(), context).unwrap();

    assert_eq!(store.revision(), before);
}

#[test]
fn apply_makes_what_is_missing() {
    let mut store = store();
    let key = Key::new(kinds::named("configmaps"), "default", "new");
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}});
    let context = WriteContext::at(now());

    let made = patch(&mut store, &key, Part::Main, Format::Apply, &body, context).unwrap();

    assert_eq!(object::name(&made), "new");
}

#[test]
fn leases_are_taken_by_one() {
    let mut store = store();
    let kind = kinds::named("leases");
    let lease = json!({"metadata": {"name": "leader"}, "spec": {"holderIdentity": "a"}});
    let context = WriteContext::at(now());
    let made = create(&mut store, kind, "default", lease.clone(), context).unwrap();
    let key = Key::of(kind, &made);

    let twice = create(&mut store, kind, "default", lease, context);
    let mut taken = Value::clone(&made);
    taken["spec"]["holderIdentity"] = json!("b");
    let first = update(&mut store, &key, Part::Main, taken.clone(), context);
    let second = update(&mut store, &key, Part::Main, taken, context);

    assert_eq!(twice.unwrap_err().code, 409);
    assert!(first.is_ok());
    assert_eq!(second.unwrap_err().code, 409);
}

/// JSON that often has the names that objects have.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "metadata",
            "spec",
            "status",
            "name",
            "labels",
            "template",
            "containers",
            "replicas",
            "selector",
            "matchLabels",
            "finalizers",
            "ownerReferences",
            "uid",
            "ports",
            "data",
            "stringData",
            "strategy",
            "type",
            "clusterIP",
            "image",
            "annotations",
            "conditions",
        ])
        .prop_map(str::to_owned),
        "[a-z]{1,3}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zA-Z0-9%=,.-]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name.clone(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A deployment with something strange put into it, so that it often passes the first checks.
fn strange_deployment() -> impl Strategy<Value = Value> {
    let places = prop::sample::select(vec![
        "/spec",
        "/spec/replicas",
        "/spec/strategy",
        "/spec/template/spec/containers/0",
        "/spec/template/metadata",
        "/metadata/annotations",
        "/metadata/labels",
        "/status",
        "/spec/selector",
        "/spec/strategy/rollingUpdate",
    ]);
    (places, any_json()).prop_map(|(place, value)| {
        let mut deployment = json!({
            "metadata": {"name": "x", "labels": {}, "annotations": {}},
            "spec": {"replicas": 1, "strategy": {"type": "RollingUpdate", "rollingUpdate": {}},
                     "selector": {"matchLabels": {"a": "b"}},
                     "template": {"metadata": {"labels": {"a": "b"}},
                                  "spec": {"containers": [{"name": "c", "image": "i"}]}}},
            "status": {}});
        if let Some(target) = deployment.pointer_mut(place) {
            *target = value;
        }
        deployment
    })
}

fn survive(store: &mut Store) {
    let mut state = ControllerState::default();
    let mut time = now();
    for _ in 0..5 {
        let due = controller::reconcile(store, &mut state, time);
        time = due.unwrap_or(time);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_body_harms_the_cluster(plural in 0usize..23, body in any_json(), change in any_json()) {
        let mut store = store();
        let kind = kinds::all().nth(plural).unwrap();
        let mut body = body;
        if body.is_object() {
            object::set(&mut body, "metadata", "name", json!("x"));
        }
        let context = WriteContext::at(now());

        let _ = create(&mut store, kind, "default", body, context);
        for format in [Format::Merge, Format::Strategic, Format::Json, Format::Apply] {
            for key in [welcome(), Key::new(kind, "default", "x")] {
                let _ = patch(&mut store, &key, Part::Main, format, &change, context);
                let _ = patch(&mut store, &key, Part::Status, format, &change, context);
            }
        }

        survive(&mut store);
    }

    #[test]
    fn no_deployment_harms_the_controllers(deployment in strange_deployment()) {
        let mut store = store();
        let kind = kinds::named("deployments");

        let _ = create(&mut store, kind, "default", deployment, WriteContext::at(now()));

        survive(&mut store);
    }
}
