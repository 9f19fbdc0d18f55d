//! What idle agents cost: memory fresh and used, CPU at rest.

use std::time::Duration;

use anyhow::ensure;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{Bench, Run, agents::Agents, report::Idle};
use crate::{output, topology::Replica, traffic};

/// Requests that each agent carries.
const REQUESTS: u64 = 4;
const BODY: &str = "/json/8192";
const CLIENTS: usize = 16;
/// Times that all agents connect anew.
const ROUNDS: usize = 3;
/// After this, what was in progress is over.
const SETTLE_TIME: Duration = Duration::from_secs(2);
const ROUND_TIMEOUT: Duration = Duration::from_secs(120);

/// Measures with the benchmark's number of agents.
pub(super) async fn measure(bench: &Bench, tls: bool) -> anyhow::Result<Idle> {
    let scheme = if tls { "wss" } else { "ws" };
    let agents = bench.options.agents;
    output::progress(&format!("{scheme}: {agents} idle agents"));
    let replica = bench
        .replica(Run {
            tls,
            ..Run::default()
        })
        .await?;
    let (empty, started) = (replica.sample()?.resident, replica.sample()?.cpu);
    let each = |resident: u64| resident.saturating_sub(empty) as f64 / agents as f64;
    let began = Instant::now();
    let mut fleet = Agents::fleet(bench, &replica.kas_address(), agents).await?;
    let ready_seconds = began.elapsed().as_secs_f64();
    let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / agents as f64;
    let (accept_cpu_us, dial_cpu_us) = (
        micros(replica.sample()?.cpu.saturating_sub(started)),
        micros(fleet.sample()?.cpu),
    );
    sleep(SETTLE_TIME).await;
    let fresh = replica.sample()?;
    let window = Duration::try_from_secs_f64(bench.options.idle_seconds)?;
    sleep(window).await;
    let cpu = replica.sample()?.cpu.saturating_sub(fresh.cpu);
    carry(bench, &replica).await?;
    sleep(SETTLE_TIME).await;
    let after_traffic = replica.sample()?.resident;
    for _ in 0..ROUNDS {
        fleet.process.signal(Signal::USR1)?;
        fleet.process.line("ready:", ROUND_TIMEOUT).await?;
    }
    sleep(SETTLE_TIME).await;
    let idle = Idle {
        scheme,
        agents,
        ready_seconds,
        accept_cpu_us,
        dial_cpu_us,
        fresh_kib: each(fresh.resident),
        after_traffic_kib: each(after_traffic),
        after_reconnects_kib: each(replica.sample()?.resident),
        cpu_ms_per_minute: cpu.as_secs_f64() * 1e3 / window.as_secs_f64() * 60.0 / agents as f64,
        fleet_kib: fleet.sample()?.resident as f64 / agents as f64,
    };
    fleet.end().await;
    replica.end().await;
    Ok(idle)
}

/// Has every agent carry some requests.
async fn carry(bench: &Bench, replica: &Replica) -> anyhow::Result<()> {
    let agents = bench.options.agents as u64;
    let sent = traffic::send(&traffic::Options {
        url: replica.url(BODY),
        bearer: Some(bench.control.bearer("{agent}")),
        agents: Some((1, agents)),
        clients: CLIENTS,
        requests: Some(agents * REQUESTS),
        ..Default::default()
    })
    .await?;
    ensure!(sent.errors() == 0, "requests failed: {sent:?}");
    Ok(())
}
