//! Watches that outlive their tunnels.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use proto::{
    agent::reverse_tunnel::rpc::{Header, connect_request::Msg},
    metadata::Meta,
};
use tokio::sync::mpsc;
use user_gateway::Settings;

use crate::{
    agent::{Agent, Asked},
    proxy::{AGENT, LONG, Proxy, collect, empty, failure, request},
    stage::Stage,
};

const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];
const PROTOBUF: &[(&str, &str)] = &[(
    "Content-Type",
    "application/vnd.kubernetes.protobuf;stream=watch",
)];
const PODS: &str = "/api/v1/namespaces/a/pods?watch=true";

fn event(kind: &str, version: u32) -> Bytes {
    let object = format!("{{\"metadata\":{{\"name\":\"p\",\"resourceVersion\":\"{version}\"}}}}");
    Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}

/// The same in protobuf: nested fields with lengths below 128.
fn frame(version: u32) -> Bytes {
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).unwrap();
        [&[number << 3 | 2, length], bytes].concat()
    }
    let object = field(1, &field(6, version.to_string().as_bytes()));
    let unknown = [b"k8s\0", &field(2, &object)[..]].concat();
    let event = [field(1, b"MODIFIED"), field(2, &field(1, &unknown))].concat();
    let length = u32::try_from(event.len()).unwrap();
    [&length.to_be_bytes()[..], &event].concat().into()
}

impl Stage {
    /// Begins a watch and what the agent answers.
    async fn watch(&mut self, path: &str, headers: &[(&str, &str)]) -> (Watch, Asked) {
        let mut client = self.proxy.client().await;
        let path = path.to_owned();
        let answer = tokio::spawn(async move { client.get(&path).await });
        let mut asked = self.asked().await;
        asked.answer(200, headers).await;
        (Watch(answer.await.unwrap()), asked)
    }

    /// Takes the request that resumes a watch.
    async fn resumed(&mut self, headers: &[(&str, &str)]) -> Asked {
        let mut asked = self.asked().await;
        asked.answer(200, headers).await;
        asked
    }
}

/// What the client sees.
struct Watch(Response<Incoming>);

impl Watch {
    /// Reads so many bytes.
    async fn read(&mut self, length: usize) -> Bytes {
        let mut all = Vec::new();
        while all.len() < length {
            let frame = tokio::time::timeout(LONG, self.0.body_mut().frame());
            let frame = frame.await.unwrap().expect("no end").unwrap();
            all.extend_from_slice(&frame.into_data().unwrap());
        }
        all.into()
    }

    async fn reads(&mut self, expected: &Bytes) {
        assert_eq!(self.read(expected.len()).await, expected);
    }

    async fn rest(self) -> hyper::Result<Bytes> {
        collect(self.0).await
    }
}

fn parameter<'a>(asked: &'a Asked, name: &str) -> Option<&'a str> {
    let query: &Meta = &asked.request().query;
    query.get(name).map(|values| values.value[0].as_str())
}

#[tokio::test]
async fn a_watch_ends_in_order_before_the_replica_does() {
    let mut stage = Stage::set().await;
    let path = format!("{PODS}&resourceVersion=1");
    let (mut watch, mut asked) = stage.watch(&path, JSON).await;
    let whole = event("MODIFIED", 2);
    asked.data(whole.clone()).await;
    asked.data(event("MODIFIED", 3).slice(..10)).await;
    assert_eq!(watch.read(whole.len()).await, whole);

    stage.proxy.drain.start();
    stage.proxy.drain.last_call();

    let rest = tokio::time::timeout(LONG, watch.0.into_body().collect());
    assert_eq!(rest.await.unwrap().unwrap().to_bytes(), "");
}

#[tokio::test]
async fn a_watch_goes_on_behind_its_last_event() {
    let mut stage = Stage::set().await;
    let path = format!("{PODS}&resourceVersion=7&labelSelector=x%3Dy");
    let (mut watch, mut asked) = stage.watch(&path, JSON).await;
    asked.data(event("ADDED", 8)).await;
    watch.reads(&event("ADDED", 8)).await;

    asked.reset();
    let mut asked = stage.resumed(JSON).await;

    assert_eq!(parameter(&asked, "resourceVersion"), Some("8"));
    assert_eq!(parameter(&asked, "labelSelector"), Some("x=y"));
    assert_eq!(parameter(&asked, "watch"), Some("true"));
    assert_eq!(asked.request().url_path, "/api/v1/namespaces/a/pods");
    asked.data(event("DELETED", 9)).await;
    watch.reads(&event("DELETED", 9)).await;
    asked.reset();
    let mut asked = stage.resumed(JSON).await;
    assert_eq!(parameter(&asked, "resourceVersion"), Some("9"));
    asked.trailer().await;
    asked.end().await;
    assert_eq!(watch.rest().await.unwrap(), "");
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn a_break_at_any_byte_loses_and_repeats_nothing() {
    for (headers, events) in [
        (JSON, [8, 9].map(|version| event("MODIFIED", version))),
        (PROTOBUF, [8, 9].map(frame)),
    ] {
        let mut stage = Stage::set().await;
        let all = Bytes::from(events.concat());
        for cut in 0..=all.len() {
            let path = format!("{PODS}&resourceVersion=7");
            let (watch, mut asked) = stage.watch(&path, headers).await;
            if cut > 0 {
                asked.data(all.slice(..cut)).await;
            }
            asked.reset();

            let mut asked = stage.resumed(headers).await;
            let version = parameter(&asked, "resourceVersion").unwrap();
            let done = version.parse::<usize>().unwrap() - 7;
            asked.data(events[done..].concat()).await;
            asked.trailer().await;
            asked.end().await;

            assert_eq!(watch.rest().await.unwrap(), all, "{cut}");
        }
        stage.proxy.quiet().await;
    }
}

#[tokio::test]
async fn a_whole_connection_may_break_and_another_agent_go_on() {
    let proxy = Proxy::start().await;
    let (hand_over, mut requests) = mpsc::channel(1);
    let script = move |asked: Asked| {
        let hand_over = hand_over.clone();
        async move { drop(hand_over.send(asked).await) }
    };
    let first = Agent::connect(&proxy.registry, AGENT, 1, script.clone()).await;
    let mut client = proxy.client().await;
    let path = format!("{PODS}&resourceVersion=7");
    let answer = tokio::spawn(async move { client.get(&path).await });
    let mut asked: Asked = requests.recv().await.unwrap();
    asked.answer(200, JSON).await;
    let mut watch = Watch(answer.await.unwrap());

    first.cut();
    let _second = Agent::connect(&proxy.registry, AGENT, 1, script).await;
    let mut asked = requests.recv().await.unwrap();
    asked.answer(200, JSON).await;
    asked.data(event("ADDED", 8)).await;

    watch.reads(&event("ADDED", 8)).await;
}

#[tokio::test]
async fn bookmarks_are_asked_for_and_kept_from_who_did_not() {
    let mut stage = Stage::set().await;
    let (mut watch, mut asked) = stage.watch(PODS, JSON).await;
    assert_eq!(parameter(&asked, "allowWatchBookmarks"), Some("true"));
    assert_eq!(asked.header("Accept-Encoding"), ["identity"]);

    asked.data(event("BOOKMARK", 20)).await;
    asked.data(event("ADDED", 21)).await;
    asked.data(event("BOOKMARK", 30)).await;
    watch.reads(&event("ADDED", 21)).await;
    // Only what is read on shows that the bookmark was read.
    asked.data(&b"{"[..]).await;
    asked.reset();
    let mut asked = stage.resumed(JSON).await;

    let version = parameter(&asked, "resourceVersion").unwrap();
    assert!(["21", "30"].contains(&version), "{version}");
    asked.data(event("ADDED", 31)).await;
    watch.reads(&event("ADDED", 31)).await;
}

#[tokio::test]
async fn a_watch_list_is_resumed_as_a_plain_watch() {
    let mut stage = Stage::set().await;
    let path = format!(
        "{PODS}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let end = Bytes::from(
        "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"20\",\
         \"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n",
    );
    let (mut watch, asked) = stage.watch(&path, JSON).await;

    asked.reset();
    let mut asked = stage.resumed(JSON).await;
    assert_eq!(parameter(&asked, "sendInitialEvents"), Some("true"));
    assert_eq!(parameter(&asked, "resourceVersion"), None);
    asked.data(event("ADDED", 9)).await;
    asked.data(end.clone()).await;
    watch.reads(&event("ADDED", 9)).await;
    watch.reads(&end).await;
    asked.reset();
    let asked = stage.resumed(JSON).await;

    assert_eq!(parameter(&asked, "sendInitialEvents"), None);
    assert_eq!(parameter(&asked, "resourceVersionMatch"), None);
    assert_eq!(parameter(&asked, "resourceVersion"), Some("20"));
    assert_eq!(parameter(&asked, "allowWatchBookmarks"), Some("true"));
}

#[tokio::test]
async fn a_watch_list_that_breaks_is_completed_or_reset_before_its_bookmark() {
    let list = format!(
        "{PODS}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let end = Bytes::from(
        "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"20\",\
         \"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n",
    );
    for all_come_again in [true, false] {
        let mut stage = Stage::set().await;
        let (mut watch, mut asked) = stage.watch(&list, JSON).await;
        for version in [9, 4] {
            asked.data(event("ADDED", version)).await;
            watch.reads(&event("ADDED", version)).await;
        }

        asked.reset();
        let mut asked = stage.resumed(JSON).await;

        assert_eq!(parameter(&asked, "sendInitialEvents"), Some("true"));
        asked.data(event("ADDED", 4)).await;
        asked.data(event("ADDED", 7)).await;
        watch.reads(&event("ADDED", 7)).await;
        if all_come_again {
            asked.data(event("ADDED", 9)).await;
            asked.data(end.clone()).await;
            watch.reads(&end).await;
        } else {
            asked.data(end.clone()).await;
            watch.rest().await.unwrap_err();
        }
    }
}

#[tokio::test]
async fn a_watch_is_reset_where_its_place_is_not_known() {
    let mut stage = Stage::set().await;
    let (mut watch, mut asked) = stage.watch(PODS, JSON).await;
    asked.data(event("ADDED", 9)).await;
    watch.reads(&event("ADDED", 9)).await;
    asked.reset();
    watch.rest().await.unwrap_err();

    let cbor = [("Content-Type", "application/cbor-seq")];
    let path = format!("{PODS}&resourceVersion=7");
    let (watch, asked) = stage.watch(&path, &cbor).await;
    asked.reset();
    watch.rest().await.unwrap_err();

    let gzip = [JSON[0], ("Content-Encoding", "gzip")];
    let (watch, asked) = stage.watch(&path, &gzip).await;
    asked.reset();
    watch.rest().await.unwrap_err();
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn a_refusal_ends_the_watch_with_an_error_event() {
    let gone = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 1 (2)","reason":"Expired","code":410}"#;
    let mut stage = Stage::set().await;
    for code in [410, 403, 404, 500] {
        let path = format!("{PODS}&resourceVersion=7");
        let (watch, mut asked) = stage.watch(&path, JSON).await;
        asked.data(event("ADDED", 8).slice(..20)).await;
        asked.reset();
        stage.asked().await.reply(code, JSON, gone).await;

        let expected = format!("{{\"type\":\"ERROR\",\"object\":{gone}}}\n");
        assert_eq!(watch.rest().await.unwrap(), expected, "{code}");
    }

    let path = format!("{PODS}&resourceVersion=7");
    let (watch, asked) = stage.watch(&path, PROTOBUF).await;
    asked.reset();
    stage.asked().await.reply(410, JSON, gone).await;
    let event = watch.rest().await.unwrap();
    assert_eq!(
        event[..4],
        u32::try_from(event.len() - 4).unwrap().to_be_bytes()
    );
    assert_eq!(event[4..11], *b"\x0a\x05ERROR");
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn an_error_event_is_passed_on_and_is_the_last() {
    let mut stage = Stage::set().await;
    let path = format!("{PODS}&resourceVersion=7");
    let (mut watch, asked) = stage.watch(&path, JSON).await;
    asked.reset();

    let mut asked = stage.resumed(JSON).await;
    let error = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410}}\n";
    asked.data(error).await;
    watch.reads(&error.into()).await;
    asked.reset();

    assert_eq!(watch.rest().await.unwrap(), "");
}

#[tokio::test]
async fn what_passes_is_waited_for() {
    let mut stage = Stage::set().await;
    let path = format!("{PODS}&resourceVersion=7");
    let (mut watch, asked) = stage.watch(&path, JSON).await;

    asked.reset();
    stage.asked().await.reset();
    stage.asked().await.reply(429, JSON, "{}").await;
    let lost = "gRPC -> HTTP: connection refused";
    let mut asked = stage.asked().await;
    asked.say(Msg::Header(Header::default())).await;
    asked.fail(tonic::Code::Unavailable, lost).await;
    stage.asked().await.reply(503, JSON, "{}").await;
    let mut asked = stage.resumed(JSON).await;
    asked.data(event("ADDED", 8)).await;

    watch.reads(&event("ADDED", 8)).await;
}

#[tokio::test]
async fn another_content_type_resets_the_watch() {
    let mut stage = Stage::set().await;
    let path = format!("{PODS}&resourceVersion=7");
    let (watch, asked) = stage.watch(&path, JSON).await;

    asked.reset();
    let _asked = stage.resumed(PROTOBUF).await;

    watch.rest().await.unwrap_err();
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn a_watch_without_a_tunnel_is_reset_and_never_ended_well() {
    let settings = Settings {
        hold: Duration::from_millis(200),
        ..Settings::default()
    };
    let mut stage = Stage::with(settings).await;
    let path = format!("{PODS}&resourceVersion=7");
    let (watch, _asked) = stage.watch(&path, JSON).await;

    stage.agent.cut();

    watch.rest().await.unwrap_err();
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn a_watch_whose_time_is_up_ends_well() {
    let mut stage = Stage::set().await;
    let path = format!("{PODS}&resourceVersion=7&timeoutSeconds=1");
    let (mut watch, mut asked) = stage.watch(&path, JSON).await;
    asked.data(event("ADDED", 8)).await;
    watch.reads(&event("ADDED", 8)).await;
    asked.data(event("ADDED", 9).slice(..9)).await;

    let mut waited = asked;
    let passed = tokio::time::timeout(Duration::from_secs(1), waited.over()).await;
    assert!(passed.is_err());
    waited.reset();

    assert_eq!(watch.rest().await.unwrap(), "");
}

#[tokio::test]
async fn a_client_that_leaves_while_its_watch_is_resumed_leaves_nothing() {
    let mut stage = Stage::set().await;
    let mut client = stage.proxy.client().await;
    let path = format!("{PODS}&resourceVersion=7");
    let (answer, asked) = tokio::join!(client.get(&path), async {
        let mut asked = stage.requests.recv().await.unwrap();
        asked.answer(200, JSON).await;
        asked
    });
    assert_eq!(answer.status(), StatusCode::OK);

    asked.reset();
    let mut resumed = stage.asked().await;
    client.vanish();

    resumed.over().await;
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn a_break_in_an_event_that_is_too_large_to_hold_back_resets_the_watch() {
    let mut stage = Stage::set().await;
    let path = format!("{PODS}&resourceVersion=7");
    let (mut watch, mut asked) = stage.watch(&path, JSON).await;
    let begun = Bytes::from("{\"type\":\"ADDED\",\"object\":{\"data\":\"");

    let large = 5 << 20;
    asked.data(begun.clone()).await;
    let (read, ()) = tokio::join!(watch.read(begun.len() + large), async {
        for _ in 0..large / (32 << 10) {
            asked.data(vec![b'x'; 32 << 10]).await;
        }
    });
    asked.reset();

    assert!(read.starts_with(&begun));
    watch.rest().await.unwrap_err();
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn a_slow_reader_of_a_watch_slows_the_agent() {
    const EVENTS: usize = 2048;
    let mut stage = Stage::set().await;
    let path = format!("{PODS}&resourceVersion=7");
    let (watch, mut asked) = stage.watch(&path, JSON).await;
    let text = format!(
        "{{\"type\":\"ADDED\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"8\"}},\"x\":\"{}\"}}}}\n",
        "x".repeat(32 << 10)
    );
    let event = Bytes::from(text);
    let length = event.len();
    let (count, sent) = tokio::sync::watch::channel(0);
    let agent = tokio::spawn(async move {
        for _ in 0..EVENTS {
            asked.data(event.clone()).await;
            count.send_modify(|sent| *sent += 1);
        }
        asked.trailer().await;
        asked.end().await
    });

    let mut before = usize::MAX;
    while before != *sent.borrow() {
        before = *sent.borrow();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    assert!(
        before < EVENTS / 2,
        "{before} events were taken from the agent"
    );
    assert_eq!(watch.rest().await.unwrap().len(), EVENTS * length);
    agent.await.unwrap();
}

#[tokio::test]
async fn other_requests_are_not_resumed() {
    let mut stage = Stage::set().await;
    let path = "/api/v1/namespaces/a/services/s/proxy/x?watch=true&resourceVersion=7";
    let (watch, asked) = stage.watch(path, JSON).await;
    assert_eq!(parameter(&asked, "allowWatchBookmarks"), None);
    asked.reset();
    watch.rest().await.unwrap_err();

    let mut client = stage.proxy.client().await;
    let refused =
        tokio::spawn(async move { client.send(request("GET", PODS, "nobody", empty())).await });
    assert_eq!(failure(refused.await.unwrap()).await.0, 401);
}
