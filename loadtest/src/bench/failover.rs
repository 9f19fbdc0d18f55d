//! An owner is killed: how soon the others forget it, and how soon its agent answers again behind its own reconnect.

use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Signal, kill_process};
use tokio::time::{Instant, sleep, timeout};

use super::{Bench, Run, agents::Agents, report::Failover};
use crate::{
    chaos::Chaos,
    output, run,
    topology::{Replica, Store},
    traffic,
};

const ROUNDS: usize = 5;
/// How long each thing may take that is waited for.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
const PATH: &str = "/json/4096";

/// Two replicas that may hold the agent, and a third where its user comes in.
struct Setup<'a> {
    bench: &'a Bench,
    holders: [Replica; 2],
    entry: Replica,
}

/// Kills the owner again and again.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Failover>> {
    let store = Store::start(&bench.options.redis_server, bench.logs()).await?;
    let run = Run {
        redis: Some(store.port()),
        ..Run::default()
    };
    let holders = [bench.replica(run).await?, bench.replica(run).await?];
    let front = Chaos::start(&holders.each_ref().map(|it| it.ports.agents)).await?;
    let mut setup = Setup {
        entry: bench.replica(run).await?,
        holders,
        bench,
    };
    let address = format!("ws://127.0.0.1:{}/", front.port());
    let agent = Agents::fleet(bench, &address, 1).await?;
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        output::progress(&format!("failover: {round} of {ROUNDS}"));
        rounds.push(setup.round().await?);
    }
    agent.end().await;
    let [one, other] = setup.holders;
    for replica in [one, other, setup.entry] {
        replica.end().await;
    }
    store.end().await;
    Ok(rounds)
}

impl Setup<'_> {
    async fn round(&mut self) -> anyhow::Result<Failover> {
        ensure!(self.ask().await?, "the agent does not answer");
        self.until(&self.entry, "routing_replicas", 3.0).await?;
        let mut owner = usize::MAX;
        for (number, holder) in self.holders.iter().enumerate() {
            if metric(holder, "tunnels").await? > 0.0 {
                owner = number;
            }
        }
        ensure!(owner < 2, "nobody holds the agent");
        // So that there is a connection between both that breaks.
        ensure!(self.ask().await?, "the agent does not answer");

        kill_process(self.holders[owner].pid()?, Signal::KILL)?;
        let killed = Instant::now();
        let (forgotten, back, answered) = tokio::try_join!(
            self.until(&self.entry, "routing_replicas", 2.0),
            self.until(&self.holders[1 - owner], "tunnels", 1.0),
            async {
                ensure!(self.ask().await?, "the request that was held failed");
                Ok(Instant::now())
            },
        )?;
        self.holders[owner].ended(FAILOVER_TIMEOUT).await?;
        self.holders[owner].launch().await?;
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        Ok(Failover {
            forgotten_ms: millis(forgotten - killed),
            back_ms: millis(back - killed),
            answered_ms: millis(answered.saturating_duration_since(back)),
        })
    }

    /// Whether a request is answered that may be held.
    async fn ask(&self) -> anyhow::Result<bool> {
        let once = traffic::Options {
            url: self.entry.url(PATH),
            bearer: Some(self.bench.control.bearer("1")),
            requests: Some(1),
            timeout: Some(FAILOVER_TIMEOUT.as_secs_f64()),
            ..Default::default()
        };
        Ok(traffic::send(&once).await?.errors() == 0)
    }

    /// When a metric of a replica reaches a value, from either side.
    async fn until(&self, replica: &Replica, name: &str, value: f64) -> anyhow::Result<Instant> {
        let above = metric(replica, name).await? > value;
        let reached = async {
            loop {
                let now = metric(replica, name).await?;
                if (above && now <= value) || (!above && now >= value) {
                    return Ok(Instant::now());
                }
                sleep(POLL_INTERVAL).await;
            }
        };
        let reached = timeout(FAILOVER_TIMEOUT, reached).await;
        reached.with_context(|| format!("{name} did not become {value}"))?
    }
}

async fn metric(replica: &Replica, name: &str) -> anyhow::Result<f64> {
    let url = format!("http://127.0.0.1:{}/metrics", replica.ports.observability);
    let metrics = run::scrape(&url).await?;
    metrics
        .get(name)
        .copied()
        .with_context(|| format!("no {name}"))
}
