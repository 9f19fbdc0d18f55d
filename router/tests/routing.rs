//! Calls find the agent's tunnel: here, at a peer, or after a wait; and a call
//! that ends, ends its streams as the agent and the peer expect.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    missing_debug_implementations,
    reason = "a test that fails may panic, and its helpers are nobody else's"
)]

mod double;

use std::time::Duration;

use bytes::Bytes;
use cluster_state::AgentId;
use double::{Agent, Replicas, need, offer, opening};
use proto::frame::Payload;
use router::{Event, Need, OpenError, tunnel::Offer};
use tokio::time::Instant;

/// Messages of a long exchange.
const COUNT: usize = 100;
const AGENT: AgentId = AgentId(42);

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn answer(call: &mut router::Call) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = call.event().await.unwrap();
        let end = event == Event::End;
        events.push(event);
        if end {
            return events;
        }
    }
}

fn messages(events: &[Event]) -> Vec<Bytes> {
    let message = |event: &Event| match event {
        Event::Message(bytes) => Some(bytes.clone()),
        Event::Header(_) | Event::Trailer(_) | Event::Error(_) | Event::End => None,
    };
    events.iter().filter_map(message).collect()
}

#[tokio::test]
async fn a_call_goes_through_an_idle_tunnel_of_this_replica() {
    let replicas = Replicas::start(1);
    let agent = Agent::connect(&replicas.all[0], AGENT, 1).await;

    let mut call = replicas.all[0]
        .open(AGENT, opening(&[b"ping"], true), soon())
        .await
        .unwrap();

    assert_eq!(messages(&answer(&mut call).await), ["ping"]);
    drop(call);
    assert_eq!(
        agent.next_end().await,
        "ok",
        "the agent is told that all went well"
    );
}

#[tokio::test]
async fn a_call_goes_through_the_peer_that_holds_the_tunnel() {
    let replicas = Replicas::start(3);
    let agent = Agent::connect(&replicas.all[2], AGENT, 1).await;

    let mut call = replicas.all[0]
        .open(AGENT, opening(&[b"a", b"b"], false), soon())
        .await
        .unwrap();
    call.send(Payload {
        head: Bytes::from_static(b"c"),
        body: Bytes::from_static(b"d"),
    })
    .await
    .unwrap();
    call.close_send().unwrap();

    assert_eq!(messages(&answer(&mut call).await), ["a", "b", "cd"]);
    assert_eq!(agent.next_end().await, "ok");
}

#[tokio::test]
async fn a_request_waits_for_a_tunnel_that_opens_on_any_replica() {
    for at in 0..2 {
        let replicas = Replicas::start(2);
        let entry = replicas.all[0].clone();
        let call =
            tokio::spawn(async move { entry.open(AGENT, opening(&[b"x"], true), soon()).await });
        tokio::task::yield_now().await;

        let _agent = Agent::connect(&replicas.all[at], AGENT, 1).await;

        let mut call = call.await.unwrap().unwrap();
        assert_eq!(messages(&answer(&mut call).await), ["x"]);
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_at_the_agent() {
    for at in 0..2 {
        let replicas = Replicas::start(2);
        let agent = Agent::connect(&replicas.all[at], AGENT, 1).await;
        let mut call = replicas.all[0]
            .open(AGENT, opening(&[b"x"], false), soon())
            .await
            .unwrap();

        while !matches!(call.event().await.unwrap(), Event::Message(_)) {}
        drop(call);

        assert_eq!(agent.next_end().await, "cancelled");
    }
}

#[tokio::test]
async fn each_tunnel_carries_one_call() {
    let replicas = Replicas::start(1);
    let _agent = Agent::connect(&replicas.all[0], AGENT, 2).await;
    let registry = replicas.all[0].registry();

    let first = registry.take(AGENT, &need()).unwrap();
    let second = registry.take(AGENT, &need()).unwrap();
    assert!(registry.take(AGENT, &need()).is_none());

    drop(first);
    assert!(
        registry.take(AGENT, &need()).is_some(),
        "an unused tunnel is idle again"
    );
    drop(second);
}

#[tokio::test]
async fn an_unused_tunnel_that_comes_back_serves_who_waits() {
    let replicas = Replicas::start(1);
    let _agent = Agent::connect(&replicas.all[0], AGENT, 1).await;
    let registry = replicas.all[0].registry();
    let held = registry.take(AGENT, &need()).unwrap();
    let waiting = registry.wait(AGENT, &need()).unwrap();

    drop(held);

    assert!(waiting.tunnel().await.is_some());
}

#[tokio::test]
async fn who_waits_is_not_forgotten_when_the_tunnel_that_comes_back_is_dead() {
    let replicas = Replicas::start(1);
    let first = Agent::connect(&replicas.all[0], AGENT, 1).await;
    let registry = replicas.all[0].registry();
    let held = registry.take(AGENT, &need()).unwrap();
    let waiting = registry.wait(AGENT, &need()).unwrap();

    first.cut();
    // All that there is to do for it is done in this thread.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(held);
    let _second = Agent::connect(&replicas.all[0], AGENT, 1).await;

    assert!(waiting.tunnel().await.is_some());
}

#[tokio::test]
async fn a_tunnel_whose_connection_dies_leaves_the_registry() {
    let replicas = Replicas::start(2);
    let agent = Agent::connect(&replicas.all[1], AGENT, 3).await;
    assert_eq!(replicas.all[1].registry().tunnels(AGENT).idle, 3);
    let mut changes = replicas.store.changes(AGENT);

    agent.cut();

    changes
        .wait_for(|_| replicas.store.owners(AGENT).is_empty())
        .await
        .unwrap();
    assert_eq!(replicas.all[1].registry().tunnels(AGENT).idle, 0);
    assert_eq!(replicas.all[1].registry().counts(), (0, 0));
}

#[tokio::test]
async fn an_agent_that_does_not_impersonate_is_refused_identities() {
    let replicas = Replicas::start(1);
    let _agent = Agent::connect_old(&replicas.all[0], AGENT, 1).await;
    let mut need = need();
    need.impersonation = true;

    let refused = replicas.all[0]
        .open_as(AGENT, &need, opening(&[b"x"], true), soon())
        .await;

    assert!(
        matches!(refused, Err(OpenError::CannotImpersonate)),
        "{refused:?}"
    );
    assert!(
        replicas.all[0]
            .open(AGENT, opening(&[b"x"], true), soon())
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_lacks_is_said_alike_by_every_replica_and_within_seconds() {
    type Lack = fn(&mut Offer);
    let lacks: [(&str, Lack); 3] = [
        ("impersonation", |offer| offer.impersonates = false),
        ("upgrade their connection", |offer| offer.upgrades = false),
        ("method", |offer| offer.methods = ["/a.B/C".into()].into()),
    ];
    for (words, lack) in lacks {
        let replicas = Replicas::start(2);
        let mut offer = offer(AGENT);
        lack(&mut offer);
        let _agent = Agent::offering(&replicas.all[1], offer, 2).await;
        let need = Need {
            impersonation: true,
            upgrade: true,
            ..need()
        };

        let mut said = Vec::new();
        for (replica, close) in [(1, true), (0, true), (0, false)] {
            let started = Instant::now();
            let deadline = started + Duration::from_secs(60);
            let refused = replicas.all[replica]
                .open_as(AGENT, &need, opening(&[b"x"], close), deadline)
                .await;

            said.push(refused.unwrap_err().to_string());
            assert!(started.elapsed() < Duration::from_secs(4), "{words}");
        }
        assert!(said[0].contains(words), "{}", said[0]);
        assert!(said.iter().all(|it| *it == said[0]), "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn tunnels_that_cannot_do_not_speak_for_one_that_is_busy() {
    let replicas = Replicas::start(1);
    let replica = &replicas.all[0];
    let _new = Agent::connect(replica, AGENT, 1).await;
    let need = Need {
        impersonation: true,
        ..need()
    };
    let busy = replica.registry().take(AGENT, &need).unwrap();
    let _old = Agent::connect_old(replica, AGENT, 2).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let open = replica.open_as(AGENT, &need, opening(&[b"x"], true), deadline);
    let release = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        drop(busy);
    };

    let (opened, ()) = tokio::join!(open, release);

    assert!(opened.is_ok(), "{opened:?}");
}

#[tokio::test(start_paused = true)]
async fn one_owner_that_cannot_does_not_speak_for_another_that_is_busy() {
    let replicas = Replicas::start(3);
    let _old = Agent::connect_old(&replicas.all[1], AGENT, 1).await;
    let _new = Agent::connect(&replicas.all[2], AGENT, 1).await;
    let need = Need {
        impersonation: true,
        ..need()
    };
    // By one that holds none, and by the one that cannot.
    for asked in [0, 1] {
        let busy = replicas.all[2].registry().take(AGENT, &need).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);

        let opened = replicas.all[asked].open_as(AGENT, &need, opening(&[b"x"], true), deadline);
        let free = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            drop(busy);
        };
        let (opened, ()) = tokio::join!(opened, free);

        assert!(opened.is_ok(), "{asked}: {opened:?}");
        drop(opened);
        replicas.all[2].until_idle(AGENT).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_absent_agent_gets_its_answer_as_soon_as_that_is_certain() {
    let replicas = Replicas::start(1);
    tokio::time::advance(Duration::from_secs(60)).await;
    let started = Instant::now();

    let refused = replicas.all[0]
        .open(AGENT, opening(&[b"x"], true), soon())
        .await;

    assert!(
        matches!(refused, Err(OpenError::NeverConnected)),
        "{refused:?}"
    );
    assert!(started.elapsed() < Duration::from_millis(100));
}

#[tokio::test]
async fn large_messages_flow_both_ways_at_once() {
    for at in 0..2 {
        let replicas = Replicas::start(2);
        let _agent = Agent::connect(&replicas.all[at], AGENT, 1).await;
        let mut call = replicas.all[0]
            .open(AGENT, opening(&[], false), soon())
            .await
            .unwrap();
        let chunk = Bytes::from(vec![7; 64 << 10]);
        let (mut sent, mut received) = (0, 0);

        // The double echoes: sending all before reading would exceed every window.
        while received < COUNT {
            let event = std::future::poll_fn(|cx| {
                while sent < COUNT && call.poll_ready(cx, chunk.len()).is_ready() {
                    let payload = Payload {
                        head: Bytes::new(),
                        body: chunk.clone(),
                    };
                    call.start_send(payload).unwrap();
                    sent += 1;
                }
                call.poll_event(cx)
            });
            if let Event::Message(bytes) = event.await.unwrap() {
                assert_eq!(bytes, chunk);
                received += 1;
            }
        }
    }
}
