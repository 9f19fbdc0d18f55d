//! `loadtest run`: a scenario from its start to its verdict and report.

mod agents;
mod attached;
mod environment;
mod figures;
mod preflight;
mod progress;
mod runner;
mod sampler;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use runtime::signal::Termination;

use crate::{
    origin::{self, Origin},
    output,
    record::Record,
    report,
    scenario::Scenario,
    topology::{Product, beside},
};
pub(crate) use sampler::scrape;

use environment::Environment;
use runner::Runner;

/// A scenario.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The scenario file.
    scenario: PathBuf,
    /// Whose kas it is, instead of the scenario's.
    #[arg(long)]
    target: Option<Product>,
    /// The kas to start; by default the one beside this program.
    #[arg(long)]
    kas: Option<PathBuf>,
    /// The redis-server that replicas share.
    #[arg(long, default_value = "redis-server")]
    redis_server: PathBuf,
    /// How many replicas, instead of the scenario's number.
    #[arg(long)]
    replicas: Option<usize>,
    /// How many agents, instead of the scenario's number.
    #[arg(long)]
    agents: Option<usize>,
    /// The folder for report.html, result.json, samples.jsonl and the logs; by default one
    /// in target/reports named after the scenario.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// Runs the scenario; an error if an objective was missed.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let scenario = options.scenario()?;
    let program = beside(options.kas.as_deref(), "kas")?;
    let room = preflight::check(&scenario, &program)?;
    output::progress(&room);
    let folder = options.folder(&scenario);
    let logs = prepare(&folder)?;
    let mut termination = Termination::listen()?;
    let mut record = record(&scenario, &program);
    record.version = match &scenario.topology.attach {
        Some(attach) => origin::of_attached(attach).await,
        None => origin::version(&program).await,
    };

    let started = tokio::select! {
        started = start(&scenario, &program, &options.redis_server, &logs) => started,
        signal = termination.next() => Err(anyhow::anyhow!("ended by {signal}")),
    };
    match started {
        Ok(environment) => {
            let runner = Runner::new(&scenario, &environment, &mut record);
            let ran = runner.run(&folder, &mut termination).await;
            record.fleet_failures = environment.end().await;
            if let Err(error) = ran {
                record.ended_early = Some(format!("{error:#}"));
            }
        }
        Err(error) => record.ended_early = Some(format!("{error:#}")),
    }
    record.figures = figures::measure(&record);
    record.verdicts = scenario.objectives.judge(&record.figures);
    conclude(&record, &folder, &logs)
}

/// Starts what the scenario asks for; the agents have begun to connect when this returns.
async fn start(
    scenario: &Scenario,
    program: &Path,
    redis_server: &Path,
    logs: &Path,
) -> anyhow::Result<Environment> {
    match &scenario.topology.attach {
        Some(attach) => attached::start(scenario, attach, logs),
        None => Environment::start(scenario, program, redis_server, logs).await,
    }
}

impl Options {
    fn scenario(&self) -> anyhow::Result<Scenario> {
        let mut scenario = Scenario::load(&self.scenario)?;
        let topology = &mut scenario.topology;
        topology.target = self.target.unwrap_or(topology.target);
        topology.replicas = self.replicas.unwrap_or(topology.replicas);
        scenario.fleet.agents = self.agents.unwrap_or(scenario.fleet.agents);
        scenario.check(&self.scenario)?;
        if let Some(name) = self.scenario.file_stem()
            && scenario.name.is_empty()
        {
            scenario.name = name.to_string_lossy().into_owned();
        }
        Ok(scenario)
    }

    fn folder(&self, scenario: &Scenario) -> PathBuf {
        let default = || Path::new("target/reports").join(&scenario.name);
        self.output.clone().unwrap_or_else(default)
    }
}

/// Makes the folder, and one for logs in it; what an earlier run left there goes.
fn prepare(folder: &Path) -> anyhow::Result<PathBuf> {
    let logs = folder.join("logs");
    if logs.is_dir() {
        std::fs::remove_dir_all(&logs)
            .with_context(|| format!("cannot empty {}", logs.display()))?;
    }
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    // A relative path would mean something else to programs that are started.
    logs.canonicalize()
        .context("the folder of the logs is gone")
}

fn record(scenario: &Scenario, program: &Path) -> Record {
    let topology = &scenario.topology;
    let attached = topology.attach.as_ref();
    let here = Origin::here();
    Record {
        scenario: scenario.name.clone(),
        about: scenario.about.clone(),
        target: topology.target.name().to_owned(),
        program: attached.map_or_else(
            || program.display().to_string(),
            |it| it.kas_address.clone(),
        ),
        loadtest: here.loadtest,
        began: here.began,
        cpus: here.cpus,
        cpu: here.cpu,
        agents: scenario.fleet.agents,
        real: scenario.fleet.real,
        replicas: topology.replicas,
        ..Record::default()
    }
}

/// Writes the report, says the verdict.
fn conclude(record: &Record, folder: &Path, logs: &Path) -> anyhow::Result<()> {
    let result = folder.join("result.json");
    std::fs::write(&result, serde_json::to_vec_pretty(record)?)
        .with_context(|| format!("cannot write {}", result.display()))?;
    let html = folder.join("report.html");
    std::fs::write(&html, report::page(&[record]))
        .with_context(|| format!("cannot write {}", html.display()))?;
    output::line(&report::summary(record));
    output::line(&format!("report: {}", html.display()));
    if let Some(why) = &record.ended_early {
        bail!(
            "{}: {why}; the logs are in {}",
            record.scenario,
            logs.display()
        );
    }
    let missed = record
        .verdicts
        .iter()
        .filter(|verdict| !verdict.reached)
        .count();
    if missed > 0 {
        bail!(
            "{}: {missed} of {} objectives were missed",
            record.scenario,
            record.verdicts.len()
        );
    }
    Ok(())
}
