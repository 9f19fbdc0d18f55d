//! `loadtest fleet`: many agents in one process, each with its own connection.

mod agent;
mod answer;
mod call;
mod forward;
mod options;
mod pool;
mod real;
mod reconnect;
mod rpc;
mod session;
mod source;
mod stats;
mod tunnel;
mod upgrade;

use std::{
    cell::OnceCell,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, bail};
use http::HeaderValue;
use runtime::signal::Termination;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    limits, output,
    script::{self, Script},
};
use agent::{Agent, Fleet};
use forward::Backend;
pub(crate) use options::Options;
use real::Real;
use rpc::Head;
use source::Sources;
use stats::Stats;

/// The agent that is played: kas knows from it what the agent can do.
const VERSION: &str = "v16.5.0";
const COMMIT: &str = "loadtest";
/// Agents that dial at the same time.
const MAX_CONCURRENT_DIALS: usize = 256;

fn user_agent() -> String {
    format!("gitlab-agent/{VERSION}/{COMMIT}")
}

/// Runs the fleet to its end and prints what it counted.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    limits::make_room(options.agents)?;
    let termination = Termination::listen()?;
    let reconnect = signal(SignalKind::user_defined1())?;
    let fleet = fleet(&options)?;
    let mut real = Real::start(&options).await?;
    let agents = launch(&options, &fleet)?;
    let run = Run {
        options,
        fleet,
        started: Instant::now(),
        seconds_to_ready: OnceCell::new(),
    };
    let result = run.until_the_end(termination, reconnect, &mut real).await;
    if let Some(real) = real {
        real.end().await;
    }
    output::json(
        &run.fleet
            .stats
            .summary(run.options.agents, run.seconds_to_ready.get().copied()),
    )?;
    drop(agents);
    result
}

fn fleet(options: &Options) -> anyhow::Result<Arc<Fleet>> {
    Ok(Arc::new(Fleet {
        targets: options.targets()?,
        script: Script::new(options.response_bytes),
        backend: options.backend.clone().map(Backend::new).transpose()?,
        descriptor: tunnel::descriptor(),
        tunnels: options.tunnels.max(2),
        stats: Stats::default(),
        dialling: Semaphore::new(MAX_CONCURRENT_DIALS),
        ramp: options.ramp,
        eager: options.eager,
        impatient: options.impatient,
        lifetime: lifetime(options)?,
        settled: CancellationToken::new(),
        round: watch::Sender::new(0),
    }))
}

/// How long connections live on average where so many of all agents drop theirs in a second.
fn lifetime(options: &Options) -> anyhow::Result<Option<Duration>> {
    let churns = options.churn_rate > 0.0;
    let seconds = churns.then(|| options.simulated() as f64 / options.churn_rate);
    Ok(seconds.map(Duration::try_from_secs_f64).transpose()?)
}

fn launch(options: &Options, fleet: &Arc<Fleet>) -> anyhow::Result<JoinSet<()>> {
    let tokens = options.tokens()?;
    let first = fleet.targets.first().context("give a --kas-address")?;
    let connect = options.connect(first)?;
    let sources = Sources::new(options.source_range, first.host())?;
    let ways = sources.count().saturating_mul(fleet.targets.len());
    limits::check_ports(options.simulated().div_ceil(ways))?;
    let user_agent = HeaderValue::try_from(format!("{} grpc-rust", user_agent()))?;
    // A backend is asked which cluster it is.
    let cluster = options.backend.is_none().then_some(script::CLUSTER);
    let mut agents = JoinSet::new();
    for number in options.real..options.agents {
        let token = &tokens[number % tokens.len()];
        let mut connect = connect.clone();
        connect.local_address = sources.of(number);
        let agent = Agent {
            number,
            fleet: fleet.clone(),
            head: Head::new(first, token, &user_agent, cluster)?,
            options: connect,
            pod_id: rand::random_range(0..i64::MAX),
        };
        agents.spawn(Arc::new(agent).run());
    }
    Ok(agents)
}

/// A fleet that is up.
struct Run {
    options: Options,
    fleet: Arc<Fleet>,
    started: Instant,
    seconds_to_ready: OnceCell<f64>,
}

impl Run {
    async fn until_the_end(
        &self,
        mut termination: Termination,
        mut reconnect: Signal,
        real: &mut Option<Real>,
    ) -> anyhow::Result<()> {
        let duration = self.options.duration.unwrap_or(Duration::MAX);
        let rounds = async {
            self.ready("").await?;
            let _ = self
                .seconds_to_ready
                .set(self.started.elapsed().as_secs_f64());
            self.fleet.settled.cancel();
            for _ in 0..self.options.churn {
                self.churn().await?;
            }
            while reconnect.recv().await.is_some() {
                self.churn().await?;
            }
            Ok(())
        };
        let status = async {
            let mut ticks = interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
                self.say_status()?;
            }
        };
        let looking = async {
            let mut ticks = interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
                match real {
                    Some(real) => real.look(&self.fleet.stats).await?,
                    None => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            never = looking => never,
            result = rounds => result,
            never = status, if self.options.status => never,
            _ = termination.next() => Ok(()),
            () = tokio::time::sleep(duration) => Ok(()),
        }
    }

    fn say_status(&self) -> anyhow::Result<()> {
        let status = self.fleet.stats.summary(self.options.agents, None);
        output::line(&format!("status: {}", serde_json::to_string(&status)?));
        Ok(())
    }

    /// Has every agent drop its connection and connect anew.
    async fn churn(&self) -> anyhow::Result<()> {
        let agents = self.options.simulated() as u64;
        let dropped = self.fleet.stats.churned.load(Relaxed) + agents;
        let mut round = 0;
        self.fleet.round.send_modify(|current| {
            *current += 1;
            round = *current;
        });
        self.wait(|fleet| fleet.stats.churned.load(Relaxed) >= dropped)
            .await?;
        self.ready(&format!(" (round {round})")).await
    }

    async fn ready(&self, remark: &str) -> anyhow::Result<()> {
        let (agents, simulated) = (self.options.agents, self.options.simulated());
        self.wait(|fleet| {
            let real = fleet.stats.real.load(Relaxed);
            fleet.stats.ready(simulated, fleet.tunnels) && simulated + real >= agents
        })
        .await?;
        output::line(&format!("ready: {agents} agents{remark}"));
        Ok(())
    }

    async fn wait(&self, reached: impl Fn(&Fleet) -> bool) -> anyhow::Result<()> {
        let polling = async {
            let mut ticks = interval(Duration::from_millis(20));
            while !reached(&self.fleet) {
                if self.fleet.stats.is_refused() {
                    bail!("kas refuses the agents' tokens (UNAUTHENTICATED): does it know them?");
                }
                ticks.tick().await;
            }
            Ok(())
        };
        let deadline = self.options.deadline();
        match timeout(deadline, polling).await {
            Ok(reached) => reached,
            Err(_) => bail!("not all agents were ready within {deadline:?}; see what was counted"),
        }
    }
}
