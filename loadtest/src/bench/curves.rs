//! How cost grows: memory and CPU with idle agents, throughput with clients and with replicas.

mod models;

use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::sleep;

use super::{Bench, Run, agents::Agents, probe};
use crate::{
    output,
    topology::{Replica, Store},
    traffic,
};
pub(super) use models::drawn;

/// Idle agents are watched so long.
const IDLE_WINDOW: Duration = Duration::from_secs(10);
/// After this, what was in progress is over.
const SETTLE_TIME: Duration = Duration::from_secs(2);
const REPLICAS: [usize; 3] = [1, 2, 3];
const CLIENTS: [usize; 4] = [1, 4, 16, 64];
/// Agents that answer: as many on each replica, whether there are one, two or three.
const AGENTS: usize = 12;
const WARM_UP_SECONDS: f64 = 1.0;

/// What was measured at all sizes.
#[derive(Debug, Serialize)]
pub(super) struct Curves {
    pub(super) idle: Vec<Idle>,
    pub(super) throughput: Vec<Throughput>,
}

/// One replica with idle agents.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) agents: usize,
    pub(super) mebibytes: f64,
    pub(super) cpu_ms_per_minute: f64,
}

/// Clients that are spread over replicas, as agents are, so that 1 − 1/replicas of all requests take a hop.
#[derive(Debug, Serialize)]
pub(super) struct Throughput {
    pub(super) replicas: usize,
    pub(super) clients: usize,
    pub(super) requests_per_second: f64,
    /// Of all replicas together.
    pub(super) cpu_us_per_request: f64,
    pub(super) failed: u64,
}

/// Measures all sizes.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Curves> {
    let mut curves = Curves {
        idle: Vec::new(),
        throughput: Vec::new(),
    };
    for agents in &bench.options.sizes {
        curves.idle.push(idle(bench, *agents).await?);
    }
    for replicas in REPLICAS {
        throughput(bench, replicas, &mut curves.throughput).await?;
    }
    Ok(curves)
}

async fn idle(bench: &Bench, agents: usize) -> anyhow::Result<Idle> {
    output::progress(&format!("curves: {agents} idle agents"));
    let replica = bench.replica(Run::default()).await?;
    let fleet = Agents::fleet(bench, &replica.kas_address(), agents).await?;
    sleep(SETTLE_TIME).await;
    let before = replica.sample()?;
    sleep(IDLE_WINDOW).await;
    let after = replica.sample()?;
    let cpu = after.cpu.saturating_sub(before.cpu);
    fleet.end().await;
    replica.end().await;
    Ok(Idle {
        agents,
        mebibytes: before.resident as f64 / 1024.0,
        cpu_ms_per_minute: cpu.as_secs_f64() * 1e3 * 60.0 / IDLE_WINDOW.as_secs_f64(),
    })
}

async fn throughput(bench: &Bench, count: usize, all: &mut Vec<Throughput>) -> anyhow::Result<()> {
    let store = Store::start(&bench.options.redis_server, bench.logs()).await?;
    let run = Run {
        redis: Some(store.port()),
        ..Run::default()
    };
    let mut replicas = Vec::new();
    for _ in 0..count {
        replicas.push(bench.replica(run).await?);
    }
    let addresses: Vec<_> = replicas.iter().map(Replica::kas_address).collect();
    let fleet = Agents::fleet(bench, &addresses.join(","), AGENTS).await?;
    for replica in &replicas {
        probe::reachable(probe::options(bench, replica.url(probe::BODY))).await?;
    }
    for clients in CLIENTS {
        output::progress(&format!("curves: {count} replicas, {clients} clients"));
        send(bench, &replicas, clients, WARM_UP_SECONDS).await?;
        let before = cpu(&replicas)?;
        let sent = send(bench, &replicas, clients, bench.options.seconds).await?;
        let used = cpu(&replicas)?.saturating_sub(before);
        let answered = sent.iter().map(|it| it.requests).sum::<u64>();
        all.push(Throughput {
            replicas: count,
            clients,
            requests_per_second: sent.iter().map(|it| it.requests_per_second).sum(),
            cpu_us_per_request: used.as_secs_f64() * 1e6 / answered.max(1) as f64,
            failed: sent.iter().map(traffic::Report::errors).sum(),
        });
    }
    fleet.end().await;
    for replica in replicas {
        replica.end().await;
    }
    store.end().await;
    Ok(())
}

/// Traffic of all clients, each with one replica, to all agents in turn.
async fn send(
    bench: &Bench,
    replicas: &[Replica],
    clients: usize,
    seconds: f64,
) -> anyhow::Result<Vec<traffic::Report>> {
    let count = replicas.len();
    let options = replicas.iter().enumerate().map(|(number, replica)| {
        let mut options = probe::options(bench, replica.url(probe::BODY));
        options.bearer = Some(bench.control.bearer("{agent}"));
        options.agents = Some((1, AGENTS as u64));
        options.clients = clients / count + usize::from(number < clients % count);
        options.duration = Some(seconds);
        options
    });
    let options: Vec<_> = options.filter(|options| options.clients > 0).collect();
    try_join_all(options.iter().map(traffic::send)).await
}

fn cpu(replicas: &[Replica]) -> anyhow::Result<Duration> {
    let samples = replicas.iter().map(Replica::sample);
    let used = samples.map(|sample| Ok(sample?.cpu));
    used.sum()
}
