//! Agents spread over replicas that come later, and a replica that has enough of them sends others elsewhere.

use std::{future::Future, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    http,
    parts::{Part, skipped},
    pod_set::{PodSet, Settings},
    process::Process,
    programs,
    wait::until,
};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// Replicas compare themselves each ten seconds, and move a third of the difference.
const LIMIT: Duration = Duration::from_secs(300);
const NEEDS: &[Part] = &[Part::Haproxy, Part::Redis];

/// Replicas behind a load balancer, of which only the first ones run, and one agent with many processes.
struct Site {
    replicas: PodSet,
    fleet: Process,
    bearer: String,
}

impl Site {
    async fn start(settings: &Settings, all: usize, running: usize, agents: usize) -> Result<Self> {
        let mut replicas = PodSet::with(all, settings).await?;
        for number in running..all {
            replicas.signal(number, "TERM").await?;
            replicas.ended(number).await?;
        }
        let token = replicas.cli(&["agent", "create", "test"]).await?;
        let user = replicas.cli(&["user", "create", "ana"]).await?;
        let grant = [
            "access", "grant", "--agent", "*", "--user", "ana", "--as", "agent",
        ];
        replicas.cli(&grant).await?;
        let mut command = Command::new(programs::loadtest()?);
        command
            .arg("fleet")
            .arg(format!("--kas-address=ws://127.0.0.1:{}/", replicas.agents))
            .arg(format!("--token={}", token.trim()))
            .arg(format!("--agents={agents}"))
            .arg(format!("--ready-within={}", LIMIT.as_secs()));
        Ok(Self {
            fleet: Process::spawn("fleet", &mut command, replicas.folder())?,
            bearer: format!("pat:2:{}", user.trim()),
            replicas,
        })
    }

    fn connections(&self, replica: usize) -> impl Future<Output = Option<u64>> {
        self.replicas.metric(replica, "agent_connections")
    }

    /// Asks through the load balancer until `stop`; gives how many requests were answered. All must be.
    async fn traffic(&self, stop: CancellationToken) -> Result<usize> {
        let url = format!("http://127.0.0.1:{}/k8s-proxy/version", self.replicas.users);
        let mut answered = 0;
        while !stop.is_cancelled() {
            let answer = http::get(&url, &self.bearer).await?;
            ensure!(answer.status().is_success(), "{answer:?}");
            answered += 1;
        }
        Ok(answered)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_spread_over_replicas_that_come_later_and_no_request_fails() -> Result<()> {
    let name = "agents_spread_over_replicas_that_come_later_and_no_request_fails";
    if skipped(name, NEEDS) {
        return Ok(());
    }
    const AGENTS: u64 = 80;
    let mut site = Site::start(&Settings::default(), 4, 2, AGENTS as usize).await?;
    site.fleet.wait_for("ready: 80 agents", LIMIT).await?;
    for number in [2, 3] {
        site.replicas.restart(number).await?;
    }
    let stop = CancellationToken::new();

    let spread = async {
        // A connection that moves is open twice for a moment.
        let spread = async || {
            let mut all = Vec::new();
            for number in 0..4 {
                all.push(site.connections(number).await?);
            }
            let even = all.iter().all(|it| (10..=27).contains(it));
            (even && all.iter().sum::<u64>() == AGENTS).then_some(all)
        };
        let spread = until("agents to spread", LIMIT, spread).await;
        stop.cancel();
        spread
    };
    let (spread, answered) = tokio::join!(spread, site.traffic(stop.clone()));

    spread.with_context(|| site.replicas.tails())?;
    ensure!(answered? > 0, "nothing was asked");
    ensure!(
        site.replicas
            .metric(2, "agent_connections_rebalanced_total")
            .await
            == Some(0),
        "the new replica gives agents away"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_enough_agents_sends_others_elsewhere_and_stays_in_service_alone()
-> Result<()> {
    let name = "a_replica_with_enough_agents_sends_others_elsewhere_and_stays_in_service_alone";
    if skipped(name, NEEDS) {
        return Ok(());
    }
    let settings = Settings {
        max_connections: 40,
        ..Settings::default()
    };
    let mut site = Site::start(&settings, 2, 1, 60).await?;
    let full = async || {
        let refused = site
            .replicas
            .metric(0, "agent_connections_refused_full_total")
            .await?;
        (refused > 20 && site.connections(0).await? >= 40).then_some(())
    };
    until("the replica to be full", LIMIT, full)
        .await
        .with_context(|| site.replicas.tails())?;

    // Nobody else has room, so it does not leave its users alone.
    ensure!(site.replicas.is_ready(0).await == Some(true), "not ready");
    let url = format!("http://127.0.0.1:{}/k8s-proxy/version", site.replicas.users);
    let answer = http::get(&url, &site.bearer).await?;
    ensure!(answer.status().is_success(), "{answer:?}");
    ensure!(
        site.replicas
            .output(0)
            .contains("too many connections of agents"),
        "nothing in the log"
    );

    site.replicas.restart(1).await?;
    let unready = async || (site.replicas.is_ready(0).await == Some(false)).then_some(());
    until("the full replica to send agents elsewhere", LIMIT, unready)
        .await
        .with_context(|| site.replicas.tails())?;
    site.fleet.wait_for("ready: 60 agents", LIMIT).await?;
    let ready = async || (site.replicas.is_ready(0).await == Some(true)).then_some(());
    until("it to have room again", LIMIT, ready)
        .await
        .with_context(|| site.replicas.tails())
}
