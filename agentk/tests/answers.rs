//! Answers to requests that change something, for which kas asks once the call has broken.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests"
)]

mod double;

use std::sync::atomic::Ordering;

use double::{
    World,
    api::BIG,
    impersonating,
    kas::{self, Answer, Call, data, http, info, request},
    within, world,
};
use proto::agent::{
    grpctool::{KeepOffer, http_request},
    reverse_tunnel::rpc::{CloseSend, connect_response::Msg},
};
use runtime::grpc;
use tonic::{Code, Status};

fn offered(id: u8, length: i64) -> http_request::Header {
    offered_to("/held", id, length)
}

fn offered_to(path: &str, id: u8, length: i64) -> http_request::Header {
    let mut header = request("POST", path);
    header.content_length = Some(length);
    header.keep = Some(KeepOffer {
        id: vec![id; 16].into(),
        keep_seconds: 60,
        caller: 1,
        received: 0,
    });
    header
}

fn trailer() -> Msg {
    http(http_request::Message::Trailer(http_request::Trailer {}))
}

/// A request with a body of four bytes.
async fn make(world: &World, id: u8) -> Call {
    make_at(world, "/held", id).await
}

async fn make_at(world: &World, path: &str, id: u8) -> Call {
    let mut call = world.kas.tunnel().await.take();
    call.send(vec![
        info(kas::METHOD),
        http(http_request::Message::Header(offered_to(path, id, 4))),
        data("data".into()),
        trailer(),
        Msg::CloseSend(CloseSend {}),
    ]);
    call
}

/// Asks for the answer to a request.
async fn ask(world: &World, header: http_request::Header) -> Call {
    let tunnel = world.kas.tunnel().await;
    let method = tunnel.answers.clone();
    let mut call = tunnel.take();
    let header = http_request::Header {
        request: None,
        content_length: Some(0),
        ..header
    };
    call.send(vec![
        info(&method),
        http(http_request::Message::Header(header)),
        trailer(),
        Msg::CloseSend(CloseSend {}),
    ]);
    call
}

/// Whether the answer is that there is none, and whether the request is said never to have come.
fn is_unknown(answer: &Answer) -> Option<bool> {
    let error = answer.error.as_ref()?;
    (error.code == Code::NotFound as i32).then(|| proto::not_taken::is_among(&error.details))
}

#[tokio::test]
async fn a_request_goes_on_when_its_call_breaks_and_its_answer_waits() {
    let world = world().await;
    let mut broken = make(&world, 1).await;
    within(world.api.held.come.notified()).await;
    broken.send.send_reset(h2::Reason::INTERNAL_ERROR);

    let first = ask(&world, offered(1, 0)).await;
    world.api.held.release.notify_one();
    let answer = first.answer().await;

    assert_eq!(answer.head.unwrap().status_code, 201);
    assert_eq!(answer.body, b"made data");
    let mut rest = offered(1, 0);
    rest.keep.as_mut().unwrap().received = 5;
    let again = ask(&world, rest).await.answer().await;
    assert_eq!(again.body, b"data", "it may be asked for once more");
    assert_eq!(world.api.held.count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_call_that_seems_to_live_gives_way_to_one_that_asks() {
    let world = world().await;
    let mut stuck = make(&world, 1).await;
    within(world.api.held.come.notified()).await;

    let asking = ask(&world, offered(1, 0)).await;
    let given_up = stuck.read().await.error.unwrap();
    world.api.held.release.notify_one();

    assert_eq!(given_up.code, Code::Aborted as i32);
    assert_eq!(asking.answer().await.body, b"made data");
}

#[tokio::test]
async fn an_answer_of_any_length_comes_whole_when_it_is_asked_for_in_time() {
    let world = world().await;
    let mut broken = make_at(&world, "/held-big", 1).await;
    within(world.api.held.come.notified()).await;
    broken.send.send_reset(h2::Reason::INTERNAL_ERROR);

    let asking = ask(&world, offered(1, 0)).await;
    world.api.held.release.notify_one();

    assert_eq!(asking.answer().await.body.len(), BIG, "more than is kept");
}

#[tokio::test]
async fn a_call_whose_kas_reads_nothing_does_not_hold_up_one_that_asks() {
    let world = world().await;
    // It is held up behind what kas' window takes.
    let mut stuck = make_at(&world, "/held-big", 1).await;
    within(world.api.held.come.notified()).await;
    world.api.held.release.notify_one();
    let head = stuck.next().await;
    assert!(head.is_some(), "the answer has begun");

    let asking = ask(&world, offered(1, 0)).await;

    assert_eq!(asking.answer().await.body.len(), BIG);
}

#[tokio::test]
async fn an_agent_that_stops_finishes_a_request_that_lost_its_call() {
    let mut world = world().await;
    let mut broken = make(&world, 1).await;
    within(world.api.held.come.notified()).await;
    let mut idle = world.kas.tunnel().await;
    broken.send.send_reset(h2::Reason::INTERNAL_ERROR);
    // The agent has heard of the reset.
    assert!(broken.next().await.is_none());

    world.stop.cancel();
    assert!(within(idle.message()).await.is_none(), "it takes no calls");
    world.api.held.release.notify_one();

    within(&mut world.agent).await.unwrap();
    assert_eq!(world.api.held.answered.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn another_identity_gets_no_answer() {
    let world = world().await;
    let mut broken = make(&world, 1).await;
    within(world.api.held.come.notified()).await;
    broken.send.send_reset(h2::Reason::INTERNAL_ERROR);

    let mut as_another = offered(1, 0);
    impersonating(&mut as_another);
    let refused = ask(&world, as_another).await;

    assert_eq!(is_unknown(&refused.answer().await), Some(false));
}

#[tokio::test]
async fn what_never_came_is_refused_when_it_comes_late() {
    let world = world().await;

    let asked = ask(&world, offered(1, 0)).await.answer().await;
    let late = make(&world, 1).await.answer().await;

    assert_eq!(is_unknown(&asked), Some(true));
    assert_eq!(late.error.unwrap().code, Code::Aborted as i32);
    assert_eq!(world.api.held.count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_came_in_part_was_not_begun() {
    let world = world().await;
    let mut broken = world.kas.tunnel().await.take();
    broken.send(vec![
        info(kas::METHOD),
        http(http_request::Message::Header(offered(1, 8))),
        data("data".into()),
    ]);
    broken.send.send_reset(h2::Reason::INTERNAL_ERROR);

    let asked = ask(&world, offered(1, 0)).await.answer().await;

    assert_eq!(is_unknown(&asked), Some(true));
    assert_eq!(world.api.held.count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_answer_that_kas_does_not_want_is_not_kept() {
    let world = world().await;
    let mut left = make(&world, 1).await;
    within(world.api.held.come.notified()).await;
    let cancelled = Status::cancelled("the caller cancelled the call");
    left.send.send_trailers(grpc::trailers(&cancelled)).unwrap();
    // The agent resets its half once it has heard of it.
    assert!(left.next().await.is_none());

    let asked = ask(&world, offered(1, 0)).await.answer().await;

    assert_eq!(is_unknown(&asked), Some(false), "it came");
}
