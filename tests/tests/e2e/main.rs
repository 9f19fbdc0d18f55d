//! Three replicas, a Redis and fifty agents under load, while everything breaks that can break.
//!
//! No idempotent request may fail and no other one be carried out twice. `E2E_MINUTES` (2 if not set) says how
//! long the faults take together and `E2E_RATE` (60) how many requests come in a second; `make e2e` asks for ten
//! minutes and 200. `E2E_ONLY` picks faults by a part of their name.

mod audit;
mod faults;
mod fleet;
mod report;
mod traffic;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Trial};
use tests::{
    chaos::Chaos,
    parts::{self, Part, say},
    replicas::Replicas,
};
use tokio::time::{Instant, sleep};

use crate::{
    faults::{Fault, Stage},
    fleet::{Fleet, Newcomers, reachable},
    report::{Phase, Report},
    traffic::Traffic,
};

const REPLICAS: usize = 3;
const AGENTS: usize = 50;
/// The part of its time that a fault lasts; in the rest it is over.
const LASTING: f64 = 0.6;

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let name = "no_request_is_lost_or_repeated_whatever_breaks";
    let skip = parts::skipped(name, &[Part::Redis]);
    let trial = Trial::test(name, || {
        let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
        let ran = runtime.block_on(run());
        ran.map_err(|error| format!("{error:?}").into())
    });
    libtest_mimic::run(&args, vec![trial.with_ignored_flag(skip)]).exit_code()
}

async fn run() -> Result<()> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("e2e");
    std::fs::remove_dir_all(&folder).ok();
    std::fs::create_dir_all(&folder)?;
    let mut replicas = Replicas::start(REPLICAS, &folder).await?;
    let agents: Vec<u16> = replicas.members.iter().map(|it| it.agents).collect();
    let balancer = Chaos::start(&agents).await?;
    let address = format!("ws://127.0.0.1:{}/", balancer.port());
    let fleet = Fleet::start(AGENTS, &address, &folder.join("agents.yaml"), &folder).await?;
    let token = replicas.cli(&["user", "create", "e2e"]).await?;
    let grant = [
        "access", "grant", "--agent", "*", "--user", "e2e", "--as", "agent",
    ];
    replicas.cli(&grant).await?;
    reachable(&replicas, &fleet.agents, &token).await?;
    let newcomers = Newcomers::new(&address, &fleet.api, &folder, &token)?;

    let users = replicas.members.iter().map(|it| it.users).collect();
    let agents = fleet.agents.clone();
    let traffic = Traffic::start(rate()?, users, agents, &token, fleet.api.clone());
    let mut phases = Vec::new();
    let stage = Stage {
        replicas: &mut replicas,
        balancer: &balancer,
        folder: &folder,
        newcomers: &newcomers,
        lasts: Duration::ZERO,
    };
    let disturbed = disturb(stage, &traffic, &mut phases).await;
    let samples = traffic.stop().await;

    let report = Report::new(&phases, &samples, fleet.api.duplicates());
    say(&format!("\n{}", report.table()));
    write(&report)?;
    audit::write(&report, &folder)?;
    if let Err(verdict) = report.verdict() {
        bail!(
            "{verdict}\n{disturbed:?}\nThe logs are in {}",
            folder.display()
        );
    }
    disturbed
}

/// Lets one fault after the other happen.
async fn disturb(mut stage: Stage<'_>, traffic: &Traffic, phases: &mut Vec<Phase>) -> Result<()> {
    let faults = chosen();
    let each = minutes()? * 60 / u32::try_from(faults.len())?;
    stage.lasts = each.mul_f64(LASTING);
    for fault in faults {
        let began = Instant::now();
        phases.push(Phase { fault, began });
        say(&format!(
            "{}: {} requests are over",
            fault.name(),
            traffic.over()
        ));
        fault
            .happen(&mut stage)
            .await
            .with_context(|| fault.name())?;
        sleep(
            each.saturating_sub(began.elapsed())
                .max(Duration::from_secs(2)),
        )
        .await;
    }
    Ok(())
}

fn chosen() -> Vec<Fault> {
    let only = std::env::var("E2E_ONLY").unwrap_or_default();
    let faults = Fault::ALL.into_iter();
    faults
        .filter(|fault| fault.name().contains(&only))
        .collect()
}

fn minutes() -> Result<Duration> {
    let minutes = std::env::var("E2E_MINUTES").unwrap_or_else(|_| "2".to_owned());
    let minutes: f64 = minutes.parse().context("E2E_MINUTES must be a number")?;
    Ok(Duration::try_from_secs_f64(minutes)?)
}

fn rate() -> Result<u32> {
    let rate = std::env::var("E2E_RATE").unwrap_or_else(|_| "60".to_owned());
    let rate = rate.parse().ok().filter(|rate| (1..=10_000).contains(rate));
    rate.context("E2E_RATE must be a number from 1 to 10000")
}

fn write(report: &Report) -> Result<()> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/reports");
    std::fs::create_dir_all(&folder)?;
    Ok(std::fs::write(folder.join("e2e.md"), report.table())?)
}
