//! GitLab's graph API, as its command line asks for it.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    agent::{Agent, Asked},
    proxy::{AGENT, LONG, Proxy},
    socket::{Said, Socket},
};

const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];
const PATH: &str = "/graph";
const PROTOCOL: &str = "Sec-WebSocket-Protocol: gitlab-agent-graph-api";
/// WebSockets of one caller, at most.
const SOCKETS: usize = 20;

fn bearer(token: &str) -> Vec<String> {
    let authorization = format!("Authorization: Bearer pat:{AGENT}:{token}");
    vec![authorization, PROTOCOL.to_owned()]
}

fn include(expression: &str) -> Value {
    json!({"include": {"resource_selector_expression": expression}})
}

fn pod(name: &str, namespace: &str, secret: &str) -> Value {
    let owner =
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "controller": true});
    json!({
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": "5", "ownerReferences": [owner]},
        "spec": {"volumes": [{"secret": {"secretName": secret}}]},
    })
}

fn vertex(group: &str, resource: &str, namespace: &str, name: &str) -> Value {
    let mut vertex = json!({"v": "v1", "r": resource, "n": name});
    if !group.is_empty() {
        vertex["g"] = group.into();
    }
    if !namespace.is_empty() {
        vertex["ns"] = namespace.into();
    }
    vertex
}

/// What the cluster says, but for its watches; `secrets` are forbidden where there are none.
fn answer(path: &str, secrets: Option<&[Value]>) -> (i32, Value) {
    let resource = |name: &str, kind: &str, namespaced: bool| {
        let verbs = ["get", "list", "watch"];
        json!({"name": name, "kind": kind, "namespaced": namespaced, "verbs": verbs})
    };
    let list = |items: Value| json!({"metadata": {"resourceVersion": "10"}, "items": items});
    let named = |name: &str| json!({"metadata": {"name": name}});
    let answer = match path {
        "/api" => json!({"versions": ["v1"]}),
        "/apis" => {
            let version = json!({"groupVersion": "apps/v1", "version": "v1"});
            json!({"groups": [{"name": "apps", "versions": [version], "preferredVersion": version}]})
        }
        "/api/v1" => json!({"resources": [
            resource("namespaces", "Namespace", false), resource("pods", "Pod", true),
            resource("pods/log", "Pod", true), resource("secrets", "Secret", true),
        ]}),
        "/apis/apps/v1" => json!({"resources": [resource("replicasets", "ReplicaSet", true)]}),
        "/api/v1/namespaces" => list(json!([named("a"), named("kube-system")])),
        "/api/v1/pods" => list(json!([
            pod("one", "a", "tls"),
            pod("system", "kube-system", "tls")
        ])),
        "/api/v1/namespaces/a/pods" => list(json!([pod("one", "a", "tls")])),
        "/apis/apps/v1/replicasets" | "/apis/apps/v1/namespaces/a/replicasets" => {
            list(json!([{"metadata": {"name": "web", "namespace": "a"}}]))
        }
        "/api/v1/secrets" | "/api/v1/namespaces/a/secrets" => match secrets {
            Some(secrets) => list(json!(secrets)),
            None => {
                return (
                    403,
                    json!({"kind": "Status", "message": "secrets is forbidden", "code": 403}),
                );
            }
        },
        other => {
            return (
                404,
                json!({"kind": "Status", "message": other, "code": 404}),
            );
        }
    };
    (200, answer)
}

/// A proxy whose agent's cluster says the same again and again; its watches are the test's.
struct Stage {
    proxy: Proxy,
    watches: mpsc::Receiver<Asked>,
    _agent: Agent,
}

impl Stage {
    async fn set(secrets: Option<&'static [Value]>) -> Self {
        Self::with(move |path| answer(path, secrets)).await
    }

    async fn with(cluster: impl Fn(&str) -> (i32, Value) + Send + Sync + 'static) -> Self {
        let proxy = Proxy::start().await;
        let (hand_over, watches) = mpsc::channel(100);
        let cluster = Arc::new(cluster);
        let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |asked| {
            let (hand_over, cluster) = (hand_over.clone(), cluster.clone());
            async move {
                if asked.request().query.contains_key("watch") {
                    return drop(hand_over.send(asked).await);
                }
                let (status, answer) = cluster(&asked.request().url_path);
                asked.reply(status, JSON, answer.to_string()).await;
            }
        })
        .await;
        Self {
            proxy,
            watches,
            _agent,
        }
    }

    async fn ask(&self, query: &Value) -> Socket {
        let mut socket = Socket::open(self.proxy.address, PATH, &bearer("joe")).await;
        assert_eq!(socket.status(), "101");
        socket.send(&query.to_string()).await;
        socket
    }

    /// The watch of this resource.
    async fn watch(&mut self, path: &str) -> Asked {
        loop {
            let asked = tokio::time::timeout(LONG, self.watches.recv()).await;
            let mut asked = asked.expect("a watch in time").unwrap();
            assert_eq!(asked.request().query["resourceVersion"].value, ["10"]);
            assert!(asked.head.extra.is_some(), "it is done on behalf of joe");
            asked.answer(200, JSON).await;
            if asked.request().url_path == path {
                return asked;
            }
        }
    }
}

/// Reads until all of these were told; gives everything that was.
async fn told(socket: &mut Socket, expected: &[Value]) -> Vec<Value> {
    let mut all = Vec::new();
    while !expected.iter().all(|it| all.contains(it)) {
        let said = tokio::time::timeout(LONG, socket.json()).await;
        let mut said = said.unwrap_or_else(|_| panic!("{expected:#?} is not in {all:#?}"));
        assert!(said["error"].is_null(), "{said}");
        if let Value::Array(actions) = said["actions"].take() {
            all.extend(actions.into_iter().map(without_object));
        }
        if let Value::Array(warnings) = said["warnings"].take() {
            all.extend(warnings);
        }
    }
    all
}

fn without_object(mut action: Value) -> Value {
    if let Some(Value::Object(set)) = action.get_mut("svx") {
        assert!(
            set.remove("o")
                .is_some_and(|it| it["metadata"]["name"].is_string())
        );
    }
    action
}

fn set(vertex: &Value) -> Value {
    json!({"svx": {"vx": vertex}})
}

#[tokio::test]
async fn a_graph_has_objects_and_arcs_of_the_chosen_namespaces_and_what_becomes_of_them() {
    let mut stage = Stage::set(Some(&[])).await;
    let mut socket = stage
        .ask(&json!({
            "queries": [
                {"exclude": {"resource_selector_expression": "resource == 'namespaces'"}},
                include("group in ['', 'apps'] && namespaced"),
            ],
            "namespaces": {"object_selector_expression": "name != 'kube-system'"},
        }))
        .await;
    let (one, web) = (
        vertex("", "pods", "a", "one"),
        vertex("apps", "replicasets", "a", "web"),
    );
    let tls = vertex("", "secrets", "a", "tls");
    let owned = json!({"sarc": {"s": one, "d": web, "t": "or", "a": {"c": true}}});
    let missing = json!({"sarc": {"s": one, "d": tls, "t": "r", "a": {"e": true}}});
    let all = told(&mut socket, &[set(&one), set(&web), owned, missing]).await;
    let text = json!(all).to_string();
    assert!(
        !text.contains("kube-system") && !text.contains("warnings"),
        "{text}"
    );

    let mut secrets = stage.watch("/api/v1/secrets").await;
    let secret = json!({"metadata": {"name": "tls", "namespace": "a", "resourceVersion": "11"}});
    let added = json!({"type": "ADDED", "object": secret});
    secrets.data(format!("{added}\n")).await;
    let there = json!({"sarc": {"s": one, "d": tls, "t": "r", "a": {}}});
    told(&mut socket, &[set(&tls), there]).await;
    let deleted = json!({"type": "DELETED", "object": secret});
    secrets.data(format!("{deleted}\n")).await;
    told(&mut socket, &[json!({"dvx": {"vx": tls}})]).await;
    socket.close().await;
    assert_eq!(socket.said().await, Said::Close(1000));
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn from_a_root_only_what_it_leads_to_is_seen_and_what_is_forbidden_is_a_warning() {
    let stage = Stage::set(None).await;
    let mut socket = stage
        .ask(&json!({
            "queries": [include("true")],
            "namespaces": {"names": ["a"]},
            "roots": {"object_selector_expressions": ["resource == 'replicasets' && name == 'web'"], "ignore_arc_direction": ["or"]},
        }))
        .await;
    let (one, web) = (
        vertex("", "pods", "a", "one"),
        vertex("apps", "replicasets", "a", "web"),
    );
    let forbidden = json!({
        "t": "FORBIDDEN", "m": "secrets is forbidden",
        "a": {"g": "", "v": "v1", "r": "secrets", "ns": "a"},
    });
    let all = told(&mut socket, &[set(&one), set(&web), forbidden]).await;
    assert!(
        !json!(all).to_string().contains("\"namespaces\""),
        "{all:?}"
    );
}

#[tokio::test]
async fn a_query_that_is_wrong_or_too_dear_ends_with_its_error_and_the_next_is_served() {
    let stage = Stage::set(Some(&[])).await;
    let dear = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20].all(a, LIST)";
    let mut nested = "true".to_owned();
    for _ in 0..6 {
        nested = dear.replace("LIST", &nested);
    }
    for (query, code, reason) in [
        (
            json!({"queries": []}),
            "InvalidArgument",
            "includes nothing",
        ),
        (
            json!({"queries": [include("1 +")]}),
            "InvalidArgument",
            "is not valid",
        ),
        (
            json!({"queries": [include(&nested)]}),
            "InvalidArgument",
            "too dear",
        ),
        (
            json!({"queries": [include("resource")]}),
            "InvalidArgument",
            "true or false",
        ),
        (
            json!({"queries": vec![include("true"); 101]}),
            "InvalidArgument",
            "more than 100",
        ),
    ] {
        let mut socket = stage.ask(&query).await;
        let said = socket.json().await;
        assert_eq!(said["error"]["code_string"], code, "{said}");
        assert_eq!(said["error"]["code"], 3, "{said}");
        assert!(
            said["error"]["reason"].as_str().unwrap().contains(reason),
            "{said}"
        );
        assert_eq!(socket.said().await, Said::Close(1008));
    }
    let mut twice = stage
        .ask(&json!({"queries": [include("resource == 'pods'")]}))
        .await;
    told(&mut twice, &[set(&vertex("", "pods", "a", "one"))]).await;
    twice.send("{}").await;
    loop {
        let said = twice.json().await;
        if let Some(reason) = said["error"]["reason"].as_str() {
            assert!(reason.contains("one query"), "{said}");
            break;
        }
    }
}

#[tokio::test]
async fn more_objects_than_a_query_may_have_end_it_and_it_only() {
    let pages = |path: &str| match path {
        "/api/v1/pods" => {
            let name = |number: usize| json!({"metadata": {"name": format!("p{number}-{}", rand_name()), "namespace": "a"}});
            let items: Vec<_> = (0..5_000).map(name).collect();
            (
                200,
                json!({"metadata": {"resourceVersion": "10", "continue": "more"}, "items": items}),
            )
        }
        path => answer(path, Some(&[])),
    };
    let stage = Stage::with(pages).await;
    let mut endless = stage
        .ask(&json!({"queries": [include("resource == 'pods'")]}))
        .await;
    let mut bystander = stage
        .ask(&json!({"queries": [include("resource == 'replicasets'")]}))
        .await;

    let reason = loop {
        let said = endless.json().await;
        if let Some(reason) = said["error"]["reason"].as_str() {
            break reason.to_owned();
        }
    };
    assert!(reason.contains("more than 20000 objects"), "{reason}");
    told(
        &mut bystander,
        &[set(&vertex("apps", "replicasets", "a", "web"))],
    )
    .await;
}

/// A name that no page had before.
fn rand_name() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test]
async fn who_says_nothing_or_has_too_many_sockets_gets_no_graph_and_others_do() {
    let stage = Stage::set(Some(&[])).await;
    for (lines, status) in [
        (bearer("bad"), "401"),
        (bearer("joe")[..1].to_vec(), "400"),
        (bearer("joe")[1..].to_vec(), "401"),
    ] {
        let refused = Socket::open(stage.proxy.address, PATH, &lines).await;
        assert_eq!(refused.status(), status, "{lines:?}");
    }
    let mut held = Vec::new();
    for _ in 0..SOCKETS {
        held.push(Socket::open(stage.proxy.address, PATH, &bearer("joe")).await);
    }
    let refused = Socket::open(stage.proxy.address, PATH, &bearer("joe")).await;
    assert_eq!(refused.status(), "429");
    let bystander = Socket::open(stage.proxy.address, PATH, &bearer("good")).await;
    assert_eq!(bystander.status(), "101");

    held[0].send(&"x".repeat(60_000)).await;
    held[1].send_header(5 << 20).await;
    assert_eq!(
        held[0].json().await["error"]["code_string"],
        "InvalidArgument"
    );
    assert_eq!(held[1].said().await, Said::Close(1009));
    drop(held);
    tokio::time::timeout(Duration::from_secs(30), async {
        while Socket::open(stage.proxy.address, PATH, &bearer("joe"))
            .await
            .status()
            == "429"
        {}
    })
    .await
    .expect("the places are given back");
}
