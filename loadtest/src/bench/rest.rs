//! What a fleet costs the Redis that replicas share: to connect, at rest, and
//! per forwarded request.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::sleep;

use super::{Bench, Run, agents::Agents, report::Rest};
use crate::{
    output,
    topology::{Replica, Store},
    traffic,
};

const REPLICAS: usize = 2;
/// After this, all that was debounced or batched is written.
const SETTLE_TIME: Duration = Duration::from_secs(5);
const REQUESTS: u64 = 2000;
const CLIENTS: usize = 8;

/// Measures with the benchmark's number of agents, all on one replica.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Rest> {
    let agents = bench.options.agents;
    output::progress(&format!("Redis: {agents} agents on {REPLICAS} replicas"));
    let store = Store::start(&bench.options.redis_server, bench.logs()).await?;
    let run = Run {
        redis: Some(store.port()),
        ..Run::default()
    };
    let owner = bench.replica(run).await?;
    let entry = bench.replica(run).await?;
    sleep(SETTLE_TIME).await;
    let before = store.stats().await?;
    let fleet = Agents::fleet(bench, &owner.kas_address(), agents).await?;
    sleep(SETTLE_TIME).await;
    let connected = store.stats().await?;

    let window = Duration::try_from_secs_f64(bench.options.idle_seconds)?;
    sleep(window).await;
    let rested = store.stats().await?;

    forward(bench, &entry, Some(1)).await?;
    let warm = store.stats().await?;
    forward(bench, &entry, None).await?;
    let stats = store.stats().await?;

    let per_second = (rested.commands - connected.commands - 1) as f64 / window.as_secs_f64();
    let rest = Rest {
        replicas: REPLICAS,
        agents,
        commands_to_connect: (connected.commands - before.commands) as f64 / agents as f64,
        commands_per_request: (stats.commands - warm.commands - 1) as f64 / REQUESTS as f64,
        commands_per_second_and_replica: per_second / REPLICAS as f64,
        bytes_per_agent: connected.memory.saturating_sub(before.memory) as f64 / agents as f64,
    };
    fleet.end().await;
    owner.end().await;
    entry.end().await;
    store.end().await;
    Ok(rest)
}

/// Requests to one agent, which the other replica owns.
async fn forward(bench: &Bench, entry: &Replica, requests: Option<u64>) -> anyhow::Result<()> {
    let sent = traffic::send(&traffic::Options {
        url: entry.url("/json/4096"),
        bearer: Some(bench.control.bearer("1")),
        clients: CLIENTS,
        requests: Some(requests.unwrap_or(REQUESTS)),
        ..Default::default()
    })
    .await?;
    ensure!(sent.errors() == 0, "requests failed: {sent:?}");
    Ok(())
}
