//! What operators wait for who list a large fleet at one of several replicas, and what that costs Redis.

use std::time::Duration;

use anyhow::ensure;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::{Bench, Run, agents::Agents, report::Operators};
use crate::{
    http_get, output,
    topology::{Replica, Store},
};

const REPLICAS: usize = 3;
/// After this, what was in progress is over, and each replica knows the agents of all.
const SETTLE_TIME: Duration = Duration::from_secs(5);
/// Lists of each filter.
const ROUNDS: usize = 50;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What is asked for: pages as large as they may be, by state, by a part of the name, by a label, and those who are away.
const FILTERS: [&str; 5] = [
    "page_size=500",
    "state=connected&page_size=500",
    "name=77&page_size=500",
    "label=version&page_size=500",
    "state=disconnected&page_size=500",
];

/// What is read of an answer.
#[derive(Debug, Deserialize)]
struct Page {
    total: usize,
}

/// Measures with the benchmark's number of agents, a third at each replica.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Operators> {
    let agents = bench.options.agents;
    output::progress(&format!(
        "operators: {agents} agents on {REPLICAS} replicas"
    ));
    let store = Store::start(&bench.options.redis_server, bench.logs()).await?;
    let run = Run {
        redis: Some(store.port()),
        ..Run::default()
    };
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(bench.replica(run).await?);
    }
    let addresses: Vec<_> = replicas.iter().map(Replica::kas_address).collect();
    let fleet = Agents::fleet(bench, &addresses.join(","), agents).await?;
    sleep(SETTLE_TIME).await;
    let asked = &replicas[0];
    let (connected, _) = list(asked, FILTERS[1]).await?;
    ensure!(
        connected == agents,
        "{connected} of {agents} agents are listed as connected"
    );

    let window = Duration::try_from_secs_f64(bench.options.idle_seconds)?;
    let before = store.stats().await?;
    sleep(window).await;
    let rested = store.stats().await?;
    let (began, mut took, mut page_bytes) = (Instant::now(), Vec::new(), 0);
    for filter in FILTERS.iter().cycle().take(ROUNDS * FILTERS.len()) {
        let began = Instant::now();
        let (_, bytes) = list(asked, filter).await?;
        took.push(began.elapsed());
        page_bytes = page_bytes.max(bytes);
    }
    let seconds = began.elapsed().as_secs_f64();
    let after = store.stats().await?;

    fleet.end().await;
    for replica in replicas {
        replica.end().await;
    }
    store.end().await;
    took.sort_unstable();
    let at_rest = (rested.commands - before.commands) as f64 / window.as_secs_f64();
    let more = (after.commands - rested.commands) as f64 - at_rest * seconds;
    Ok(Operators {
        replicas: REPLICAS,
        agents,
        lists: took.len(),
        p50_ms: percentile(&took, 50),
        p99_ms: percentile(&took, 99),
        page_bytes,
        commands_per_list: more.max(0.0) / took.len() as f64,
    })
}

/// How many agents match, and the bytes of their first page.
async fn list(replica: &Replica, filter: &str) -> anyhow::Result<(usize, usize)> {
    let url = format!("{}v1/agents?{filter}", replica.admin_url());
    let (status, body) = timeout(ANSWER_TIMEOUT, http_get::get(&url)).await??;
    ensure!(status.is_success(), "{url}: {status}");
    let page: Page = serde_json::from_slice(&body)?;
    Ok((page.total, body.len()))
}

/// Of these, sorted, in milliseconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    let found = sorted.get(at.min(last));
    found.map_or(0.0, |it| it.as_secs_f64() * 1e3)
}
