//! The agent between a kas and a Kubernetes API that the tests play.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests"
)]

mod double;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use double::{
    api::BIG,
    impersonating,
    kas::{self, data, http, info, request, upgrade_data},
    within, world,
};
use proto::{
    agent::{
        grpctool::http_request,
        prototool::Values,
        reverse_tunnel::rpc::{connect_request::Msg, connect_response},
    },
    metadata,
};
use runtime::grpc;
use tonic::{Code, Status};

fn with_header(header: &mut http_request::Header, name: &str, value: &str) {
    let entry = metadata::entry(name.to_owned(), [value.to_owned()]);
    header.request.as_mut().unwrap().header.push(entry);
}

#[tokio::test]
async fn a_get_comes_back_whole_with_names_as_go_spells_them() {
    let world = world().await;
    let tunnel = world.kas.tunnel().await;
    assert_eq!(tunnel.headers["authorization"], "Bearer secret");
    assert!(
        tunnel.headers["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("gitlab-agent/v16.5.0+kas.")
    );

    let mut header = request("GET", "/api/a b");
    impersonating(&mut header);
    let mut call = tunnel.take();
    call.send(vec![
        info(kas::METHOD),
        http(http_request::Message::Header(header)),
    ]);
    call.close();
    let answer = call.answer().await;

    let head = answer.head.unwrap();
    assert_eq!((head.status_code, head.status.as_str()), (200, "200 OK"));
    let has = |name| metadata::values(&head.header, name).next().is_some();
    assert!(has("Content-Length") && has("Via"));
    let body = String::from_utf8(answer.body).unwrap();
    assert!(body.starts_with("GET /prefix/api/a%20b\n"), "{body}");
    assert!(body.contains("impersonate-user: ana"), "{body}");
    assert!(body.contains("via: gRPC/1.0 gitlab-agent/"), "{body}");
}

#[tokio::test]
async fn nested_impersonation_is_refused_behind_a_header() {
    let world = world().await;
    let mut header = request("GET", "/api");
    impersonating(&mut header);
    with_header(&mut header, "Impersonate-Group", "admins");

    let mut call = world.kas.call(header).await;
    call.close();
    let answer = call.answer().await;

    let error = answer.error.unwrap();
    assert_eq!(error.code, Code::Unavailable as i32);
    assert!(
        error
            .message
            .starts_with("gRPC -> HTTP: nested impersonation"),
        "{}",
        error.message
    );
    assert!(answer.head.is_none());
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let world = world().await;

    let mut call = world.kas.call(request("GET", "/big")).await;
    call.close();
    assert_eq!(call.answer().await.body, vec![7; BIG]);

    for (length, announced) in [(Some(5 << 20), "Some(\"5242880\")"), (None, "None")] {
        let mut header = request("POST", "/count");
        header.content_length = length;
        let mut call = world.kas.call(header).await;
        let chunk = Bytes::from(vec![1; 32 << 10]);
        for _ in 0..160 {
            assert!(within(call.feed(data(chunk.clone()))).await);
        }
        call.close();
        let body = String::from_utf8(call.answer().await.body).unwrap();
        assert_eq!(body, format!("5242880 {announced}"));
    }
}

#[tokio::test]
async fn a_get_of_unknown_length_has_no_body() {
    let world = world().await;
    let mut header = request("GET", "/api");
    header.content_length = Some(-1);

    let mut call = world.kas.call(header).await;
    call.close();
    let body = String::from_utf8(call.answer().await.body).unwrap();

    assert!(!body.contains("transfer-encoding"), "{body}");
}

#[tokio::test]
async fn a_watch_streams_and_ends_when_kas_gives_the_tunnel_up() {
    let mut world = world().await;
    let mut call = world.kas.call(request("GET", "/watch")).await;
    call.close();

    assert!(matches!(call.next().await, Some(Msg::Header(_))));
    assert!(
        matches!(call.next().await, Some(Msg::Message(_))),
        "the head"
    );
    assert!(
        matches!(call.next().await, Some(Msg::Message(_))),
        "the event"
    );
    call.send.send_reset(h2::Reason::CANCEL);

    within(world.api.cancelled.recv()).await.unwrap();
}

#[tokio::test]
async fn a_watch_ends_when_kas_ends_the_tunnel_with_an_error() {
    let mut world = world().await;
    let mut call = world.kas.call(request("GET", "/watch")).await;
    call.close();
    assert!(call.next().await.is_some());

    let status = Status::cancelled("the client left");
    call.send
        .send_trailers(runtime::grpc::trailers(&status))
        .unwrap();

    within(world.api.cancelled.recv()).await.unwrap();
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_up_to_both_half_closes() {
    let world = world().await;
    let mut header = request("POST", "/exec");
    with_header(&mut header, "Upgrade", "SPDY/3.1");
    with_header(&mut header, "Connection", "Upgrade");

    let mut call = world.kas.call(header).await;
    call.send(vec![http(http_request::Message::Trailer(
        http_request::Trailer {},
    ))]);
    call.send(vec![
        upgrade_data("hello ".into()),
        upgrade_data("world".into()),
    ]);
    call.send(vec![
        proto::agent::reverse_tunnel::rpc::connect_response::Msg::CloseSend(
            proto::agent::reverse_tunnel::rpc::CloseSend {},
        ),
    ]);
    let answer = call.answer().await;

    let head = answer.head.unwrap();
    assert_eq!(head.status_code, 101);
    let upgrade: Vec<_> = metadata::values(&head.header, "Upgrade").collect();
    assert_eq!(upgrade, [b"SPDY/3.1"]);
    assert_eq!(answer.upgrade, b"hello world bye");
}

#[tokio::test]
async fn what_kas_leaves_open_when_it_ends_the_call_is_over() {
    let world = world().await;
    let mut header = request("POST", "/count");
    header.content_length = Some(8);
    let mut call = world.kas.call(header).await;
    call.send(vec![data("half".into())]);
    call.send.send_trailers(grpc::ok_trailers()).unwrap();
    assert!(call.answer().await.error.is_some(), "its body is cut short");

    let mut header = request("POST", "/exec");
    with_header(&mut header, "Upgrade", "SPDY/3.1");
    with_header(&mut header, "Connection", "Upgrade");
    let mut call = world.kas.call(header).await;
    call.send(vec![
        http(http_request::Message::Trailer(http_request::Trailer {})),
        upgrade_data("hello".into()),
    ]);
    call.send.send_trailers(grpc::ok_trailers()).unwrap();
    assert_eq!(call.answer().await.upgrade, b"hello bye");
}

#[tokio::test]
async fn messages_in_a_wrong_order_end_the_call_with_the_reason() {
    let world = world().await;
    let mut call = world.kas.call(request("POST", "/count")).await;
    call.send(vec![data("unexpected".into())]);
    let error = call.answer().await.error.unwrap();
    assert_eq!(error.code, Code::Internal as i32);
    assert_eq!(
        error.message,
        "unexpected HttpRequest_Data message received"
    );

    let mut call = world.kas.tunnel().await.take();
    call.send(vec![info(kas::METHOD), data("no header".into())]);
    let error = call.answer().await.error.unwrap();
    assert_eq!(error.code, Code::InvalidArgument as i32);
    assert!(
        error.message.contains("transition from 0 to 2"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let world = world().await;
    let mut call = world.kas.tunnel().await.take();

    call.send(vec![info("/some.Service/Method")]);

    assert_eq!(
        call.answer().await.error.unwrap().code,
        Code::Unimplemented as i32
    );
}

#[tokio::test]
async fn a_message_that_is_too_large_costs_its_tunnel_only() {
    let world = world().await;
    let mut call = world.kas.tunnel().await.take();
    let mut prefix = vec![0];
    prefix.extend(u32::try_from(5 << 20).unwrap().to_be_bytes());
    call.send
        .send_data(proto::frame::Frame::raw(prefix.into()), false)
        .unwrap();
    assert!(call.next().await.is_none());

    let mut call = world.kas.call(request("GET", "/api")).await;
    call.close();
    assert!(call.answer().await.head.is_some());
}

#[tokio::test]
async fn stopping_ends_idle_tunnels_and_finishes_calls() {
    let mut world = world().await;
    let mut header = request("POST", "/count");
    header.content_length = Some(4);
    let mut call = world.kas.call(header).await;
    // More than the two of the beginning: the agent has taken the call.
    let idle = [world.kas.tunnel().await, world.kas.tunnel().await];

    world.stop.cancel();
    call.send(vec![data("body".into())]);
    call.close();

    assert!(call.answer().await.body.starts_with(b"4 "));
    within(&mut world.agent).await.unwrap();
    drop(idle);
}

/// Log lines of all tests here.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_request_id_of_a_call_is_in_its_log_lines_and_not_sent_to_the_cluster() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    // For the process: what threads without a subscriber register first would stay off for all.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let world = world().await;
    let tunnel = world.kas.tunnel().await;
    let mut call = tunnel.take();
    let connect_response::Msg::RequestInfo(mut request_info) = info(kas::METHOD) else {
        panic!("a call begins with it");
    };
    let values = Values {
        value: vec!["id-of-the-test".to_owned()],
    };
    request_info.meta.insert("x-request-id".to_owned(), values);

    call.send(vec![
        connect_response::Msg::RequestInfo(request_info),
        http(http_request::Message::Header(request("GET", "/api"))),
    ]);
    call.close();
    let answer = call.answer().await;

    let body = String::from_utf8(answer.body).unwrap();
    assert!(!body.contains("id-of-the-test"), "{body}");
    let is_of_call = |it: &str| {
        let parts = ["id-of-the-test", "\"http.status\":200", "duration_ms"];
        parts.iter().all(|part| it.contains(part))
    };
    // The answer is here before the agent has said that it is.
    let said = async {
        loop {
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            if text.lines().any(is_of_call) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within(said).await;
}
