//! `loadtest bench`: one replica on loopback, or several, measured from outside.

mod agents;
mod compare;
mod curves;
mod failover;
mod idle;
mod operators;
mod probe;
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
    topology::{ControlPlane, GitLab, Product, Replica, Setup, Store, beside},
};
use agents::Kind;
pub(crate) use compare::{Options as CompareOptions, run as compare};
use curves::Curves;
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
    #[arg(long, default_value_t = 5000)]
    agents: usize,
    /// Seconds of each measurement of requests.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Seconds for which idle agents are watched.
    #[arg(long, default_value_t = 20.0)]
    idle_seconds: f64,
    /// Idle agents that begin to connect in a second: so many that the ramp does not limit how fast they are accepted.
    #[arg(long, default_value_t = 50_000.0)]
    ramp: f64,
    /// Only these parts.
    #[arg(long, value_delimiter = ',', default_values = ["requests", "bulk", "idle", "hop", "failover", "rest", "operators", "curves"])]
    only: Vec<Part>,
    /// Sizes of fleets that memory and CPU are drawn over.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 2000, 5000, 10_000])]
    sizes: Vec<usize>,
    /// Bodies of 200 MiB, of which the median counts.
    #[arg(long, default_value_t = 3)]
    bodies: usize,
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
    /// The owner of an agent is killed.
    Failover,
    /// What a fleet at rest costs the Redis that replicas share.
    Rest,
    /// How long lists of the fleet take that operators ask for, and how large they are.
    Operators,
    /// How all that grows with agents, clients and replicas.
    Curves,
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

/// What lies between agent, kas and user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Link {
    /// Loopback, in clear.
    Clear,
    /// Loopback, with TLS for agents and users.
    Tls,
    /// Loopback, in clear, where the user's connection carries little, as nets do.
    Narrow,
}

/// How a kas is run.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// With TLS for agents.
    tls: bool,
    /// With TLS for users.
    https: bool,
    /// The port of a Redis that it shares with others.
    redis: Option<u16>,
}

/// What every measurement needs.
struct Bench {
    options: Options,
    product: Product,
    kas: PathBuf,
    agentk: PathBuf,
    go_agentk: Option<PathBuf>,
    dir: TempDir,
    control: ControlPlane,
    /// For a kas that cannot do without.
    gitlab: Option<GitLab>,
    redis: Option<Store>,
}

/// Runs the benchmarks, writes the figures and prints them as a table.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let bench = Bench::new(options, Product::Kas).await?;
    let measured = bench.all().await;
    let options = bench.options.clone();
    let report = bench.end(measured).await?;
    report.write(&options.output)?;
    output::line(&report.table());
    Ok(())
}

impl Bench {
    async fn new(options: Options, product: Product) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("kas-bench-")?;
        let kas = beside(options.kas.as_deref(), "kas")?;
        ensure!(kas.is_file(), "there is no kas at {}", kas.display());
        let most = options.sizes.iter().copied().max();
        let control = ControlPlane::write(dir.path(), options.agents.max(most.unwrap_or(0)))?;
        let (mut gitlab, mut redis) = (None, None);
        if product.needs_redis() {
            gitlab = Some(GitLab::start(&control).await?);
            redis = Some(Store::start(&options.redis_server, dir.path()).await?);
        }
        Ok(Self {
            agentk: beside(options.agentk.as_deref(), "agentk")?,
            go_agentk: None,
            control,
            product,
            kas,
            gitlab,
            redis,
            dir,
            options,
        })
    }

    /// Ends what it started; keeps the logs of what went wrong.
    async fn end<T>(self, measured: anyhow::Result<T>) -> anyhow::Result<T> {
        if let Some(redis) = self.redis {
            redis.end().await;
        }
        if measured.is_err() {
            let kept = self.dir.keep();
            output::progress(&format!("the logs are in {}", kept.display()));
        }
        measured
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let mut report = Report::new(&self.kas);
        if self.wants(Part::Requests) || self.wants(Part::Bulk) {
            for kind in self.kinds() {
                requests::measure(self, kind, Route::Direct, Link::Clear, &mut report).await?;
            }
        }
        if self.wants(Part::Hop) {
            self.hop(&mut report).await?;
        }
        if self.wants(Part::Idle) {
            for tls in [false, true] {
                report.idle.push(idle::measure(self, tls).await?);
            }
        }
        if self.wants(Part::Failover) && self.product == Product::Kas {
            report.failover = failover::measure(self).await?;
        }
        if self.wants(Part::Rest) {
            report.rest = Some(rest::measure(self).await?);
        }
        if self.wants(Part::Operators) && self.product == Product::Kas {
            report.operators = Some(operators::measure(self).await?);
        }
        Ok(report)
    }

    /// With the least behind kas, as users run it, and where the net is the limit.
    async fn hop(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut cases = vec![
            (Kind::Simulated, Link::Clear),
            (Kind::Simulated, Link::Narrow),
        ];
        if self.agentk.is_file() && self.product == Product::Kas {
            cases.insert(1, (Kind::Agentk, Link::Tls));
        }
        for (kind, link) in cases {
            let measured =
                link == Link::Clear && (self.wants(Part::Requests) || self.wants(Part::Bulk));
            if !measured {
                requests::measure(self, kind, Route::Direct, link, report).await?;
            }
            requests::measure(self, kind, Route::Forwarded, link, report).await?;
        }
        Ok(())
    }

    async fn all(&self) -> anyhow::Result<Report> {
        let mut report = self.measure().await?;
        report.curves = self.curves().await?;
        Ok(report)
    }

    async fn curves(&self) -> anyhow::Result<Option<Curves>> {
        if !self.wants(Part::Curves) {
            return Ok(None);
        }
        curves::measure(self).await.map(Some)
    }

    /// Whom requests are sent through: our own agentk only behind our own kas.
    fn kinds(&self) -> Vec<Kind> {
        let mut kinds = vec![Kind::Simulated];
        match self.product {
            Product::Kas if self.agentk.is_file() => kinds.push(Kind::Agentk),
            Product::Kas => {
                output::line(&format!("SKIPPED: agentk needs {}", self.agentk.display()));
            }
            Product::GoKas => {}
        }
        kinds.extend(self.go_agentk.is_some().then_some(Kind::GoAgentk));
        kinds
    }

    fn wants(&self, part: Part) -> bool {
        self.options.only.contains(&part)
    }

    async fn replica(&self, run: Run) -> anyhow::Result<Replica> {
        let setup = Setup {
            product: self.product,
            tls: run.tls,
            https: run.https,
            redis: run.redis.or(self.redis.as_ref().map(Store::port)),
            gitlab: self.gitlab.as_ref().map(GitLab::port),
            ..Setup::new(self.kas.clone())
        };
        Replica::start(&setup, &self.control, self.dir.path()).await
    }

    fn logs(&self) -> &Path {
        self.dir.path()
    }
}
