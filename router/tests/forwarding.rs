//! A call that goes through a peer is like one that does not, and one call
//! does no harm to others on the same connection.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    missing_debug_implementations,
    reason = "a test that fails may panic, and its helpers are nobody else's"
)]

mod double;

use std::{collections::HashMap, future::poll_fn, task::Poll, time::Duration};

use bytes::Bytes;
use cluster_state::AgentId;
use double::{Agent, Replica, Replicas, need, opening, url};
use proto::{agent::prototool::Values, frame::Payload};
use router::{Broken, Call, Event, Opening, peers::TunnelReply};
use tokio::time::Instant;
use tonic::Code;

const AGENT: AgentId = AgentId(42);

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn payload(body: Bytes) -> Payload {
    Payload {
        head: Bytes::new(),
        body,
    }
}

async fn open(replica: &Replica, opening: Opening) -> Call {
    replica.open(AGENT, opening, soon()).await.unwrap()
}

async fn next_message(call: &mut Call) -> Bytes {
    loop {
        if let Event::Message(message) = call.event().await.unwrap() {
            return message;
        }
    }
}

/// Sends until nothing more goes, and nobody reads.
async fn send_until_full(call: &mut Call, message: &Bytes) -> usize {
    let mut sent = 0;
    let patience = Duration::from_millis(300);
    while let Ok(sending) =
        tokio::time::timeout(patience, call.send(payload(message.clone()))).await
    {
        sending.unwrap();
        sent += 1;
    }
    sent
}

#[tokio::test]
async fn the_agent_gets_the_same_metadata_as_without_a_peer() {
    let values = |value: &str| Values {
        value: vec![value.to_owned()],
    };
    let meta = HashMap::from([
        (
            "traceparent".to_owned(),
            values("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ),
        ("tracestate".to_owned(), values("vendor=1")),
    ]);
    for at in 0..2 {
        let replicas = Replicas::start(2);
        let _agent = Agent::connect(&replicas.all[at], AGENT, 1).await;
        let opening = Opening {
            meta: meta.clone(),
            ..opening(&[b"x"], true)
        };

        let mut call = open(&replicas.all[0], opening).await;

        assert_eq!(
            call.event().await.unwrap(),
            Event::Header(proto::metadata::raw(meta.clone()))
        );
    }
}

#[tokio::test]
async fn a_tunnel_request_of_a_peer_is_not_passed_on() {
    let replicas = Replicas::start(3);
    let _agent = Agent::connect(&replicas.all[2], AGENT, 1).await;
    let stranger = replicas.stranger();

    let opening = opening(&[], false);
    let asked = stranger
        .request_tunnel(&url(1), AGENT, &need(), &opening)
        .await;
    let mut asked = asked.unwrap();

    assert_eq!(asked.reply().await.unwrap(), TunnelReply::NoneYet);
    let more = tokio::time::timeout(Duration::from_millis(300), asked.reply()).await;
    assert!(more.is_err(), "{more:?}");
    assert_eq!(replicas.dials(2), 0, "nobody has asked the owner");
    assert_eq!(replicas.all[2].registry().tunnels(AGENT).idle, 1);
}

#[tokio::test]
async fn a_tunnel_request_that_is_dropped_takes_no_tunnel() {
    let replicas = Replicas::start(1);
    let stranger = replicas.stranger();
    let (url, need, opening) = (url(0), need(), opening(&[], false));
    let ask = || stranger.request_tunnel(&url, AGENT, &need, &opening);
    let mut waits = ask().await.unwrap();
    assert_eq!(waits.reply().await.unwrap(), TunnelReply::NoneYet);
    drop(waits);
    // Requests of one connection are seen in order: the next proves that the drop was.
    let mut seen = ask().await.unwrap();
    assert_eq!(seen.reply().await.unwrap(), TunnelReply::NoneYet);
    drop(seen);

    let _agent = Agent::connect(&replicas.all[0], AGENT, 1).await;

    let mut asked = ask().await.unwrap();
    assert_eq!(asked.reply().await.unwrap(), TunnelReply::Ready);
}

/// A call that may begin with the request for its tunnel.
fn safe(messages: &[&'static [u8]]) -> Opening {
    Opening {
        safe: true,
        ..opening(messages, true)
    }
}

#[tokio::test]
async fn a_safe_call_begins_with_the_request_where_there_is_a_tunnel_and_never_later() {
    let replicas = Replicas::start(1);
    let stranger = replicas.stranger();
    let (url, need, opening) = (url(0), need(), safe(&[b"a", b"b"]));
    let ask = || stranger.request_tunnel_and_begin(&url, AGENT, &need, &opening);
    let mut early = ask().await.unwrap();
    assert_eq!(early.reply().await.unwrap(), TunnelReply::NoneYet);
    assert_eq!(early.reply().await.unwrap_err().code(), Code::Unavailable);

    let _agent = Agent::connect(&replicas.all[0], AGENT, 1).await;

    let mut asked = ask().await.unwrap();
    assert_eq!(asked.reply().await.unwrap(), TunnelReply::Ready);
    let mut call = Call::through_peer(asked, &opening).unwrap();
    assert_eq!(next_message(&mut call).await, "a");
    assert_eq!(next_message(&mut call).await, "b");
}

#[tokio::test]
async fn a_safe_call_waits_for_a_tunnel_of_a_peer_as_others_do() {
    let replicas = Replicas::start(2);
    let first = Agent::connect(&replicas.all[1], AGENT, 1).await;
    let mut busy = open(&replicas.all[0], opening(&[], false)).await;
    let mut waits = std::pin::pin!(open(&replicas.all[0], safe(&[b"a"])));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waits).await;
    assert!(early.is_err(), "the only tunnel is in use");

    let _second = Agent::connect(&replicas.all[1], AGENT, 1).await;

    assert_eq!(next_message(&mut waits.await).await, "a");
    busy.close_send().unwrap();
    drop(first);
}

#[tokio::test]
async fn a_replica_that_leaves_ends_at_the_last_call_what_goes_on_elsewhere_and_nothing_else() {
    let replicas = Replicas::start(2);
    let _agent = Agent::connect(&replicas.all[1], AGENT, 2).await;
    let watch = Opening {
        moves: true,
        ..opening(&[b"a"], false)
    };
    let mut watch = open(&replicas.all[0], watch).await;
    let mut upload = open(&replicas.all[0], opening(&[b"a"], false)).await;
    for call in [&mut watch, &mut upload] {
        assert_eq!(next_message(call).await, "a");
    }
    let drain = replicas.all[1].drain();

    drain.start();
    watch.send(payload(Bytes::from_static(b"b"))).await.unwrap();
    assert_eq!(next_message(&mut watch).await, "b");
    drain.last_call();

    let ended = watch.event().await.unwrap_err();
    assert!(matches!(ended, Broken::Peer(_)), "{ended}");
    upload
        .send(payload(Bytes::from_static(b"b")))
        .await
        .unwrap();
    assert_eq!(next_message(&mut upload).await, "b");
}

#[tokio::test]
async fn a_tunnel_that_was_ready_and_is_not_used_is_idle_again() {
    let replicas = Replicas::start(1);
    let _agent = Agent::connect(&replicas.all[0], AGENT, 1).await;
    let stranger = replicas.stranger();
    let opening = opening(&[], false);
    for _ in 0..3 {
        let asked = stranger
            .request_tunnel(&url(0), AGENT, &need(), &opening)
            .await;
        let mut asked = asked.unwrap();

        assert_eq!(asked.reply().await.unwrap(), TunnelReply::Ready);
    }
}

#[tokio::test]
async fn a_pooled_connection_outlives_thousands_of_calls_that_are_cut_early() {
    let replicas = Replicas::start(2);
    for _ in 0..5 {
        let _agent = Agent::connect(&replicas.all[1], AGENT, 500).await;
        for n in 0..500 {
            let close = n % 2 == 0;
            let opening = Opening {
                safe: n % 3 == 0,
                ..opening(&[b"a", b"b"], close)
            };
            let mut call = open(&replicas.all[0], opening).await;
            assert_eq!(next_message(&mut call).await, "a");
        }
    }

    assert_eq!(replicas.dials(1), 1, "2,500 calls, one connection");
}

#[tokio::test]
async fn a_reader_that_stalls_delays_nobody_else() {
    let replicas = Replicas::start(2);
    let _agent = Agent::connect(&replicas.all[1], AGENT, 40).await;
    let chunk = Bytes::from(vec![7; 64 << 10]);
    let mut stalled = open(&replicas.all[0], opening(&[], false)).await;
    assert!(send_until_full(&mut stalled, &chunk).await > 16);

    for _ in 0..20 {
        let mut call = open(&replicas.all[0], opening(&[], false)).await;
        for _ in 0..40 {
            call.send(payload(chunk.clone())).await.unwrap();
            assert_eq!(next_message(&mut call).await, chunk);
        }
    }

    assert_eq!(replicas.dials(1), 1, "they shared a connection");
    assert_eq!(next_message(&mut stalled).await, chunk);
}

#[tokio::test]
async fn thousands_of_small_messages_may_wait_unread() {
    let replicas = Replicas::start(2);
    let _agent = Agent::connect(&replicas.all[1], AGENT, 2).await;
    let event = Bytes::from(vec![7; 45]);
    let mut slow = open(&replicas.all[0], opening(&[], false)).await;
    for _ in 0..5000 {
        slow.send(payload(event.clone())).await.unwrap();
    }
    slow.close_send().unwrap();

    let mut other = open(&replicas.all[0], opening(&[b"x"], true)).await;
    assert_eq!(next_message(&mut other).await, "x");

    for _ in 0..5000 {
        assert_eq!(next_message(&mut slow).await, event);
    }
    assert_eq!(replicas.dials(1), 1);
}

#[tokio::test]
async fn a_call_through_a_peer_that_is_dropped_leaves_its_connection_to_others() {
    let replicas = Replicas::start(2);
    let _agent = Agent::connect(&replicas.all[1], AGENT, 2).await;
    let mut call = open(&replicas.all[0], opening(&[], false)).await;
    let full = poll_fn(|cx| match call.poll_ready(cx, 1) {
        Poll::Ready(ready) => Poll::Ready(ready.is_ok()),
        Poll::Pending => Poll::Ready(false),
    });
    assert!(full.await);
    drop(call);

    let mut other = open(&replicas.all[0], opening(&[b"x"], true)).await;

    assert_eq!(next_message(&mut other).await, "x");
    assert_eq!(replicas.dials(1), 1);
}
