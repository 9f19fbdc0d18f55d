//! `loadtest bench`: one replica on loopback, or several, measured from outside.

mod agents;
mod idle;
mod report;
mod requests;
mod rest;

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use serde::Serialize;
use tempfile::TempDir;

use crate::{
    output,
    topology::{ControlPlane, Replica, Setup, beside},
};
use agents::Kind;
use report::Report;

/// Benchmarks.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The kas to measure; by default the one beside this program.
    #[arg(long)]
    kas: Option<PathBuf>,
    /// The agentk to measure with; by default the one beside this program.
    #[arg(long)]
    agentk: Option<PathBuf>,
    /// The redis-server that replicas share.
    #[arg(long, default_value = "redis-server")]
    redis_server: PathBuf,
    /// Where to write the figures.
    #[arg(long, default_value = "target/reports/bench.json")]
    output: PathBuf,
    /// Idle agents to measure memory with.
    #[arg(long, default_value_t = 2000)]
    agents: usize,
    /// Seconds of each measurement of requests.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Seconds for which idle agents are watched.
    #[arg(long, default_value_t = 20.0)]
    idle_seconds: f64,
    /// Only these parts.
    #[arg(long, value_delimiter = ',', default_values = ["requests", "bulk", "idle", "hop", "rest"])]
    only: Vec<Part>,
}

/// A part of the benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Requests a second, latency and CPU per request.
    Requests,
    /// MiB/s of one long body.
    Bulk,
    /// Memory and CPU per idle agent.
    Idle,
    /// Requests and a long body through a replica that does not own the agent.
    Hop,
    /// What a fleet at rest costs the Redis that replicas share.
    Rest,
}

/// How requests reach the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Route {
    /// Through the replica that the agent is connected to.
    Direct,
    /// Through another one.
    Forwarded,
}

/// How a kas is run.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// With TLS for agents.
    tls: bool,
    /// The port of a Redis that it shares with others.
    redis: Option<u16>,
}

/// What every measurement needs.
struct Bench {
    options: Options,
    kas: PathBuf,
    agentk: PathBuf,
    dir: TempDir,
    control: ControlPlane,
}

/// Runs the benchmarks, writes the figures and prints them as a table.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let bench = Bench::new(options)?;
    let result = bench.measure().await;
    if result.is_err() {
        let kept = bench.dir.keep();
        output::progress(&format!("the logs are in {}", kept.display()));
    }
    result
}

impl Bench {
    fn new(options: Options) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("kas-bench-")?;
        let kas = beside(options.kas.as_deref(), "kas")?;
        ensure!(kas.is_file(), "there is no kas at {}", kas.display());
        Ok(Self {
            control: ControlPlane::write(dir.path(), options.agents)?,
            agentk: beside(options.agentk.as_deref(), "agentk")?,
            kas,
            dir,
            options,
        })
    }

    async fn measure(&self) -> anyhow::Result<()> {
        let mut report = Report::new(&self.kas);
        if self.wants(Part::Requests) || self.wants(Part::Bulk) {
            for kind in [Kind::Simulated, Kind::Agentk] {
                if kind == Kind::Agentk && !self.agentk.is_file() {
                    output::line(&format!("SKIPPED: agentk needs {}", self.agentk.display()));
                    continue;
                }
                requests::measure(self, kind, Route::Direct, &mut report).await?;
            }
        }
        if self.wants(Part::Hop) {
            for route in [Route::Direct, Route::Forwarded] {
                requests::measure(self, Kind::Simulated, route, &mut report).await?;
            }
        }
        if self.wants(Part::Idle) {
            for tls in [false, true] {
                report.idle.push(idle::measure(self, tls).await?);
            }
        }
        if self.wants(Part::Rest) {
            report.rest = Some(rest::measure(self).await?);
        }
        report.write(&self.options.output)?;
        output::line(&report.table());
        Ok(())
    }

    fn wants(&self, part: Part) -> bool {
        self.options.only.contains(&part)
    }

    async fn replica(&self, run: Run) -> anyhow::Result<Replica> {
        let setup = Setup {
            tls: run.tls,
            redis: run.redis,
            ..Setup::new(self.kas.clone())
        };
        Replica::start(&setup, &self.control, self.dir.path()).await
    }

    fn logs(&self) -> &Path {
        self.dir.path()
    }
}
