//! Connections to peers are shared, several where one would block, replaced
//! when they end, and a peer that cannot be reached costs little.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    missing_debug_implementations,
    reason = "a test that fails may panic, and its helpers are nobody else's"
)]

mod peer;

use std::time::Duration;

use futures_util::future::join_all;
use peer::{Mood, Peer, URL, ask, eventually};
use tokio::time::Instant;

/// Streams from which on another connection is wanted, with room to spare.
const MANY: usize = 80;

#[tokio::test]
async fn those_who_ask_at_once_share_one_connection() {
    let peer = Peer::start(Mood::Serves);
    let pool = peer.pool();

    let asked = join_all((0..20).map(|n| ask(&pool, n))).await;

    assert!(asked.iter().all(Result::is_ok));
    assert_eq!(peer.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn many_calls_get_several_connections_which_go_when_they_are_idle() {
    let peer = Peer::start(Mood::Serves);
    let pool = peer.pool();
    let mut asked = Vec::new();

    for round in 1..=6 {
        for n in 0..MANY {
            asked.push(ask(&pool, n).await.unwrap());
        }
        let wanted = (round + 1).min(4);
        eventually("another connection", || peer.open() >= wanted).await;
    }
    assert_eq!(peer.dials(), 4);
    drop(asked);

    eventually("the end of all but one", || peer.open() == 1).await;
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(peer.open(), 0, "nobody asked for long");
    assert_eq!(peer.dials(), 4);
}

#[tokio::test]
async fn a_connection_that_ends_in_order_gets_no_new_calls_and_finishes_its_old() {
    let peer = Peer::start(Mood::Serves);
    let pool = peer.pool();
    let mut old = ask(&pool, 0).await.unwrap();

    peer.go_away();
    let mut new = ask(&pool, 1).await.unwrap();
    // A request that was on its way is still answered on the old connection.
    while peer.dials() == 1 {
        new = ask(&pool, 1).await.unwrap();
    }

    let goes_on = tokio::time::timeout(Duration::from_millis(200), old.reply()).await;
    assert!(goes_on.is_err(), "{goes_on:?}");
    drop(old);
    eventually("the end of the old connection", || peer.open() == 1).await;
    drop(new);
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_fails_fast_and_is_dialled_again_when_asked_later() {
    let peer = Peer::start(Mood::Refuses);
    let pool = peer.pool();

    for _ in 0..100 {
        let refused = ask(&pool, 0).await.unwrap_err();

        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(refused.message().contains(URL), "{refused}");
        assert!(
            refused.message().contains("connection refused"),
            "{refused}"
        );
    }
    assert_eq!(peer.dials(), 1);

    peer.becomes(Mood::Serves);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(ask(&pool, 0).await.is_ok());
    assert_eq!(peer.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_freezes_is_found_out_within_three_seconds_of_a_request() {
    for idle in [0, 1, 100] {
        let peer = Peer::start(Mood::Serves);
        let pool = peer.pool();
        drop(ask(&pool, 0).await.unwrap());
        tokio::time::sleep(Duration::from_secs(idle)).await;
        peer.becomes(Mood::Frozen);

        let since = Instant::now();
        let broken = ask(&pool, 0).await.unwrap_err();

        assert!(broken.message().contains("stopped answering"), "{broken}");
        assert!(
            since.elapsed() <= Duration::from_secs(3),
            "after {idle} s: {:?}",
            since.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_request_ends_within_three_seconds_when_the_peer_freezes() {
    let peer = Peer::start(Mood::Serves);
    let pool = peer.pool();
    let mut asked = ask(&pool, 0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    peer.becomes(Mood::Frozen);

    let since = Instant::now();
    let answer = asked.reply().await;

    assert_eq!(answer.unwrap_err().code(), tonic::Code::Unavailable);
    assert!(
        since.elapsed() <= Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_frozen_peer_that_is_dialled_fails_and_serves_again_when_thawed() {
    let peer = Peer::start(Mood::Frozen);
    let pool = peer.pool();

    let refused = ask(&pool, 0).await.unwrap_err();
    peer.becomes(Mood::Serves);
    tokio::time::sleep(Duration::from_secs(2)).await;

    assert!(refused.message().contains("did not answer"), "{refused}");
    assert!(ask(&pool, 0).await.is_ok());
}

#[tokio::test]
async fn requests_that_are_dropped_in_numbers_leave_the_connection_to_others() {
    let peer = Peer::start(Mood::Serves);
    let pool = peer.pool();
    let mut other = ask(&pool, 0).await.unwrap();

    // The peer is slow: it sees the requests and their end at once.
    peer.becomes(Mood::Frozen);
    let requests = join_all((0..50).map(|n| ask(&pool, n)));
    let moment = Duration::from_millis(100);
    assert!(tokio::time::timeout(moment, requests).await.is_err());
    tokio::time::sleep(moment).await;
    peer.becomes(Mood::Serves);

    assert!(ask(&pool, 1).await.is_ok());
    let goes_on = tokio::time::timeout(moment, other.reply()).await;
    assert!(goes_on.is_err(), "{goes_on:?}");
    assert_eq!(peer.dials(), 1);
}

#[tokio::test]
async fn a_request_on_a_connection_that_just_died_is_sent_again_through_another() {
    let peer = Peer::start(Mood::Serves);
    let pool = peer.pool();
    for round in 1..20 {
        drop(ask(&pool, 0).await.unwrap());

        peer.cut();

        assert!(ask(&pool, 0).await.is_ok());
        assert_eq!(peer.dials(), 1 + round);
    }
}
