//! Requests through one replica to one agent: rate, latency, CPU, bulk.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep};

use super::{
    Bench, Part,
    agents::{Agents, Kind},
    replica::Replica,
    report::{Bulk, Report, Requests},
};
use crate::{output, traffic};

const CLIENTS: [usize; 3] = [1, 16, 64];
const BODY: &str = "/json/4096";
const WARM_UP: f64 = 1.0;
/// How long the agent may take to be reachable.
const REACHABLE: Duration = Duration::from_secs(30);
/// Bulk bodies, of which the median counts.
const BULKS: usize = 3;

/// Measures with an agent of this kind.
pub(super) async fn measure(bench: &Bench, kind: Kind, report: &mut Report) -> anyhow::Result<()> {
    let replica = Replica::start(bench, false).await?;
    let agents = Agents::one(bench, &replica, kind).await?;
    reachable(bench, &replica).await?;
    if bench.wants(Part::Requests) {
        for clients in CLIENTS {
            let row = requests(bench, &replica, &agents, kind, clients).await?;
            report.requests.push(row);
        }
    }
    if bench.wants(Part::Bulk) {
        report.bulk.push(bulk(bench, &replica, kind).await?);
    }
    agents.end().await;
    replica.end().await;
    Ok(())
}

fn options(bench: &Bench, replica: &Replica, path: &str) -> traffic::Options {
    traffic::Options {
        url: replica.url(path),
        bearer: Some(bench.control.bearer("1")),
        ..Default::default()
    }
}

async fn reachable(bench: &Bench, replica: &Replica) -> anyhow::Result<()> {
    let deadline = Instant::now() + REACHABLE;
    let mut once = options(bench, replica, BODY);
    once.requests = Some(1);
    once.timeout = Some(5.0);
    while traffic::send(&once).await?.errors() > 0 {
        ensure!(Instant::now() < deadline, "the agent cannot be reached");
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn requests(
    bench: &Bench,
    replica: &Replica,
    agents: &Agents,
    kind: Kind,
    clients: usize,
) -> anyhow::Result<Requests> {
    output::progress(&format!("{kind:?}: {clients} clients"));
    let mut options = options(bench, replica, BODY);
    options.clients = clients;
    options.duration = Some(WARM_UP);
    traffic::send(&options).await?;
    options.duration = Some(bench.options.seconds);
    let before = (replica.sample()?, agents.sample()?);
    let sent = traffic::send(&options).await?;
    let after = (replica.sample()?, agents.sample()?);
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / sent.requests.max(1) as f64;
    Ok(Requests {
        kind,
        clients,
        kas_cpu_us: each(after.0.cpu.saturating_sub(before.0.cpu)),
        agent_cpu_us: each(after.1.cpu.saturating_sub(before.1.cpu)),
        sent,
    })
}

async fn bulk(bench: &Bench, replica: &Replica, kind: Kind) -> anyhow::Result<Bulk> {
    output::progress(&format!("{kind:?}: 200 MiB"));
    let mut options = options(bench, replica, "");
    options.bulk = true;
    let mut runs = Vec::new();
    for _ in 0..BULKS {
        let before = replica.sample()?;
        let sent = traffic::send(&options).await?;
        ensure!(
            sent.errors() == 0,
            "the body of 200 MiB did not arrive: {sent:?}"
        );
        let cpu = replica.sample()?.cpu.saturating_sub(before.cpu);
        runs.push(Bulk {
            kind,
            mebibytes_per_second: sent.mebibytes_per_second,
            kas_cpu_ms: cpu.as_secs_f64() * 1e3,
        });
    }
    runs.sort_by(|a, b| a.mebibytes_per_second.total_cmp(&b.mebibytes_per_second));
    Ok(runs.swap_remove(BULKS / 2))
}
