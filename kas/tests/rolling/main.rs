//! Replicas leave under load: nobody notices.
//!
//! `AGENTK_BIN` puts another agent in the place of ours.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails may panic, and says what it ran with"
)]

mod agent;
mod api;
mod front;
#[path = "../parts/replica.rs"]
mod replica;
mod site;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kas::replica::Cut;
use site::{Site, until, within};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// Sends requests one after the other until `stop`; gives how many of them must
/// not be done twice.
async fn traffic(
    site: Arc<Site>,
    method: &'static str,
    done: Arc<AtomicUsize>,
    stop: CancellationToken,
) -> usize {
    let mut sent = 0;
    while !stop.is_cancelled() {
        sent += 1;
        let (status, body) = site.request(method, "/thing").await;
        assert_eq!(status, 200, "{method}: {body}");
        done.fetch_add(1, Ordering::Relaxed);
    }
    if method == "POST" { sent } else { 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_and_repeats_no_request() {
    let site = Arc::new(Site::start(3).await);
    site.connected().await;
    let done = Arc::new(AtomicUsize::new(0));
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for method in ["GET", "GET", "POST", "POST"] {
        clients.spawn(traffic(site.clone(), method, done.clone(), stop.clone()));
    }

    for round in 0..3 {
        let before = done.load(Ordering::Relaxed);
        site.add().await;
        let oldest = site.remove_oldest();
        let cut = within(site.leave(oldest, CancellationToken::new())).await;
        assert_eq!(cut, Cut::default(), "round {round}");
        until(|| done.load(Ordering::Relaxed) > before + 50).await;
    }

    stop.cancel();
    let mut sent = 0;
    while let Some(client) = clients.join_next().await {
        sent += client.unwrap();
    }
    assert_eq!(site.api.posts(), sent, "each POST came once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_of_all_connections_of_an_agent_lose_no_request() {
    let site = Arc::new(Site::start(3).await);
    site.connected().await;
    let mut longest = Duration::ZERO;

    // Another agent may back off longer each time.
    let resets = if agent::is_ours() { 10 } else { 2 };
    for _ in 0..resets {
        for _ in 0..20 {
            let begin = Instant::now();
            let (status, body) = site.request("GET", "/thing").await;
            assert_eq!(status, 200, "{body}");
            longest = longest.max(begin.elapsed());
        }
        site.reset_agents();
    }

    println!("the longest request took {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_progress_is_finished_on_the_owner_and_where_it_came_in() {
    let site = Arc::new(Site::start(2).await);
    site.connected().await;
    // One stream comes in at each replica; at least one of them is passed on.
    let mut streams = Vec::new();
    for replica in 0..2 {
        streams.push(site.stream_at(replica).await);
    }
    site.add().await;

    let mut leaving = JoinSet::new();
    for _ in 0..2 {
        let (site, replica) = (site.clone(), site.remove_oldest());
        leaving.spawn(async move { site.leave(replica, CancellationToken::new()).await });
    }
    // The agent has moved; the streams go on.
    until(|| site.only_newest_has_idle_tunnels()).await;
    assert_eq!(leaving.len(), 2);
    for stream in &mut streams {
        assert!(within(stream.line()).await.is_some());
    }
    site.api.end_streams();

    for mut stream in streams {
        within(async { while stream.line().await.is_some() {} }).await;
        assert!(stream.ended_well());
    }
    while let Some(cut) = within(leaving.join_next()).await {
        assert!(cut.unwrap().is_nothing());
    }
    assert_eq!(site.request("GET", "/thing").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_cuts_and_says_what() {
    let site = Site::start(1).await;
    site.connected().await;
    let stream = site.stream_at(0).await;
    let force = CancellationToken::new();
    let leaving = site.leave(site.remove_oldest(), force.clone());
    let mut leaving = std::pin::pin!(leaving);
    let waits = tokio::time::timeout(Duration::from_millis(500), &mut leaving);
    assert!(waits.await.is_err(), "it waits for the stream");

    force.cancel();
    let cut = within(leaving).await;

    assert!(cut.users > 0, "{cut:?}");
    assert!(cut.to_string().contains("users"), "{cut}");
    drop(stream);
}
