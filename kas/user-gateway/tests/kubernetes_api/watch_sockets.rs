//! Many watches on one WebSocket, as GitLab's dashboard asks for them.

use http::Request;
use runtime::jwt::Secret;
use serde_json::{Value, json};
use user_gateway::{Settings, WebSocketTokens};

use crate::{
    agent::Next,
    proxy::{AGENT, collect, empty, request},
    socket::{Said, Socket},
    stage::Stage,
};

const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];
const PATH: &str = "/watch";
const PROTOCOL: &str = "Sec-WebSocket-Protocol: gitlab-agent-watch-api";
/// Watches of one WebSocket, at most.
const LIMIT: usize = 100;

fn bearer(token: &str) -> Vec<String> {
    let authorization = format!("Authorization: Bearer pat:{AGENT}:{token}");
    vec![authorization, PROTOCOL.to_owned()]
}

fn watch(id: &str, namespace: &str) -> String {
    let params = json!({"version": "v1", "resource": "pods", "namespace": namespace});
    json!({"type": "watch", "watch_id": id, "watch_params": params}).to_string()
}

fn event(kind: &str, version: u32) -> (String, Value) {
    let object = json!({"metadata": {"name": "p", "resourceVersion": version.to_string()}});
    let event = json!({"type": kind, "object": object});
    (format!("{event}\n"), event)
}

fn error(said: &Value) -> &str {
    assert_eq!(said["type"], "error");
    said["error"]["object"]["message"].as_str().unwrap()
}

async fn open(stage: &Stage, lines: &[String]) -> Socket {
    Socket::open(stage.proxy.address, PATH, lines).await
}

#[tokio::test]
async fn each_watch_of_a_socket_is_a_request_of_the_caller_and_ends_alone() {
    let mut stage = Stage::set().await;
    let mut socket = open(&stage, &bearer("joe")).await;
    assert_eq!(socket.status(), "101");
    assert!(
        socket
            .head
            .contains("sec-websocket-protocol: gitlab-agent-watch-api\r\n")
    );

    socket.send(&watch("one", "a")).await;
    let mut one = stage.asked().await;
    socket.send(&watch("two", "b")).await;
    let mut two = stage.asked().await;
    assert_eq!(one.request().url_path, "/api/v1/namespaces/a/pods");
    assert_eq!(two.request().url_path, "/api/v1/namespaces/b/pods");
    assert_eq!(one.request().query["watch"].value, ["true"]);
    assert!(one.header("Sec-Websocket-Protocol").is_empty());
    assert!(one.head.extra.is_some(), "it is done on behalf of joe");
    one.answer(200, JSON).await;
    two.answer(200, JSON).await;
    let (text, added) = event("ADDED", 5);
    one.data(text.clone()).await;
    let expected = json!({"watchId": "one", "type": "event", "watchEvent": added});
    assert_eq!(socket.json().await, expected);

    socket.send(r#"{"type":"unwatch","watch_id":"one"}"#).await;
    assert!(matches!(one.over().await, Next::Broken | Next::End(_)));
    two.data(text).await;
    assert_eq!(socket.json().await["watchId"], "two");
    socket.close().await;
    assert_eq!(socket.said().await, Said::Close(1000));
    assert!(matches!(two.over().await, Next::Broken | Next::End(_)));
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn a_browsers_session_watches_with_a_token_good_for_one_socket() {
    let tokens = WebSocketTokens::new(Secret::new(vec![7; 72]), None);
    let mut stage = Stage::with(Settings {
        websocket_tokens: Some(tokens),
        ..Settings::default()
    })
    .await;
    let asked = Request::get(format!("{PATH}?kas-websocket-token-request=true"))
        .header("host", "kas.example.com")
        .header("cookie", "_gitlab_kas=joe")
        .header("gitlab-agent-id", AGENT)
        .header("x-csrf-token", "x")
        .body(empty())
        .unwrap();
    let answer = stage.proxy.client().await.send(asked).await;
    let answer: Value = serde_json::from_slice(&collect(answer).await.unwrap()).unwrap();
    let token = answer["token"].as_str().unwrap();
    let lines = [format!(
        "{PROTOCOL}, websocket-token.kas.gitlab.com.{token}"
    )];

    let mut socket = open(&stage, &lines).await;
    assert_eq!(socket.status(), "101");
    socket.send(&watch("pods", "a")).await;
    let mut asked = stage.asked().await;
    assert!(asked.head.extra.is_some(), "it is done on behalf of joe");
    asked.answer(200, JSON).await;
    asked.data(event("ADDED", 5).0).await;
    assert_eq!(socket.json().await["watchId"], "pods");

    assert_eq!(open(&stage, &lines).await.status(), "401");
}

#[tokio::test]
async fn who_is_not_known_or_speaks_another_protocol_gets_no_socket() {
    let stage = Stage::set().await;
    let mut foreign = bearer("good")[1..].to_vec();
    foreign.extend([
        format!("Cookie: _gitlab_kas=good\r\nGitlab-Agent-Id: {AGENT}\r\nX-Csrf-Token: x"),
        "Origin: https://elsewhere.example.com".to_owned(),
    ]);
    for (lines, status) in [
        (bearer("bad"), "401"),
        (bearer("stranger"), "403"),
        (bearer("good")[..1].to_vec(), "400"),
        (bearer("good")[1..].to_vec(), "401"),
        (foreign, "403"),
    ] {
        assert_eq!(open(&stage, &lines).await.status(), status, "{lines:?}");
    }
    let plain = request("GET", PATH, "good", empty());
    let answer = stage.proxy.client().await.send(plain).await;
    assert_eq!(answer.status(), 426);
}

#[tokio::test]
async fn what_is_wrong_with_one_watch_is_said_of_it_and_leaves_the_others() {
    let mut stage = Stage::set().await;
    let mut socket = open(&stage, &bearer("good")).await;
    socket.send(&watch("good", "a")).await;
    let mut good = stage.asked().await;
    good.answer(200, JSON).await;

    for (text, id, reason) in [
        (watch("good", "b"), "good", "there is a watch with this id"),
        (watch("path", "a/secrets?x="), "path", "the namespace"),
        ("{".to_owned(), "", "not understood"),
        (
            r#"{"type":"stop","watch_id":"x"}"#.to_owned(),
            "x",
            "watch or unwatch",
        ),
    ] {
        socket.send(&text).await;
        let said = socket.json().await;
        assert_eq!(said["watchId"], id);
        assert!(error(&said).contains(reason), "{said}");
    }
    socket.send(&watch("forbidden", "b")).await;
    let status = json!({"kind": "Status", "message": "pods is forbidden", "code": 403});
    let refused = stage.asked().await;
    refused.reply(403, JSON, status.to_string()).await;
    let said = socket.json().await;
    assert_eq!(
        (&said["watchId"], &said["error"]["object"]),
        (&json!("forbidden"), &status)
    );
    socket.send(&watch("gone", "c")).await;
    let mut gone = stage.asked().await;
    gone.answer(200, JSON).await;
    gone.data("{\"type\":\"ERROR\",\"object\":{\"message\":\"too old\"}}\n")
        .await;
    assert_eq!(error(&socket.json().await), "too old");

    good.data(event("ADDED", 5).0).await;
    assert_eq!(socket.json().await["watchId"], "good");
}

#[tokio::test]
async fn a_watch_that_the_cluster_ends_goes_on_behind_its_last_bookmark_or_says_so() {
    let mut stage = Stage::set().await;
    let mut socket = open(&stage, &bearer("good")).await;
    socket.send(&watch("w", "a")).await;
    let mut first = stage.asked().await;
    first.answer(200, JSON).await;
    first
        .data([event("ADDED", 9).0, event("ADDED", 3).0].concat())
        .await;
    first
        .data([event("BOOKMARK", 10).0, event("MODIFIED", 12).0].concat())
        .await;
    for version in ["9", "3", "12"] {
        let said = socket.json().await;
        let object = &said["watchEvent"]["object"];
        assert_eq!(object["metadata"]["resourceVersion"], version);
    }
    first.trailer().await;
    first.end().await;

    let mut second = stage.asked().await;
    assert_eq!(second.request().query["resourceVersion"].value, ["12"]);
    second.answer(200, JSON).await;
    second.data(event("DELETED", 13).0).await;
    assert_eq!(socket.json().await["watchEvent"]["type"], "DELETED");

    socket.send(&watch("young", "b")).await;
    let mut young = stage.asked().await;
    young.answer(200, JSON).await;
    young.data(event("ADDED", 9).0).await;
    assert_eq!(socket.json().await["watchId"], "young");
    young.trailer().await;
    young.end().await;
    assert!(error(&socket.json().await).contains("the cluster ended the watch"));
}

#[tokio::test]
async fn a_watch_goes_on_over_another_tunnel() {
    let mut stage = Stage::set().await;
    let mut socket = open(&stage, &bearer("good")).await;
    socket.send(&watch("w", "a")).await;
    let mut first = stage.asked().await;
    first.answer(200, JSON).await;
    first
        .data([event("ADDED", 9).0, event("BOOKMARK", 10).0].concat())
        .await;
    assert_eq!(socket.json().await["watchId"], "w");

    first.reset();

    let mut second = stage.asked().await;
    assert_eq!(second.request().query["resourceVersion"].value, ["10"]);
    second.answer(200, JSON).await;
    second.data(event("MODIFIED", 13).0).await;
    assert_eq!(socket.json().await["watchEvent"]["type"], "MODIFIED");
}

#[tokio::test]
async fn a_socket_takes_a_hundred_watches_and_refuses_the_rest() {
    let mut stage = Stage::set().await;
    // The agent serves none of them.
    stage.requests.close();
    let mut socket = open(&stage, &bearer("good")).await;
    for number in 0..LIMIT {
        socket.send(&watch(&format!("w{number}"), "a")).await;
    }

    socket.send(&watch("more", "a")).await;
    socket.send(&watch("more", "a")).await;

    let mut refused = 0;
    while refused < 2 {
        let said = socket.json().await;
        if said["watchId"] == "more" {
            assert!(error(&said).contains("limit: 100"), "{said}");
            refused += 1;
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_the_socket() {
    let mut stage = Stage::set().await;
    let mut socket = open(&stage, &bearer("good")).await;
    socket.send(&watch("w", "a")).await;
    let mut asked = stage.asked().await;
    asked.answer(200, JSON).await;

    socket.send(&"x".repeat(60_000)).await;

    let said = socket.json().await;
    assert_eq!(said["watchId"], "w");
    assert!(error(&said).contains("more than 16384 bytes"), "{said}");
    assert_eq!(socket.said().await, Said::Close(1009));
    assert!(matches!(asked.over().await, Next::Broken | Next::End(_)));
}
