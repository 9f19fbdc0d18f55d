//! Three replicas behind HAProxy and nginx, a Redis and fifty agents under load, while everything breaks that
//! can break.
//!
//! No idempotent request may fail, no other one be carried out twice, and no watch miss or repeat an event.
//! `E2E_MINUTES` (1.5 if not set) says how long the faults take together and `E2E_RATE` (60) how many requests
//! come in a second; `make e2e` asks for ten minutes and 200. In less than five minutes there is time for some
//! of the faults only. `E2E_ONLY` picks faults by a part of their name, and `AGENTK_BIN` makes a third of the
//! agents that one.

mod audit;
mod faults;
mod fleet;
mod fronts;
mod guests;
mod report;
mod settings;
mod traffic;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Trial};
use tests::{
    parts::{self, Part, say},
    redis::{Cluster, Redis, Sentinels, Store},
    replicas::Replicas,
};
use tokio::time::{Instant, sleep};

use crate::{
    faults::{Fault, Stage},
    fleet::{Fleet, reachable},
    fronts::Fronts,
    guests::Guests,
    report::{Phase, Report},
    settings::Settings,
    traffic::Traffic,
};

const REPLICAS: usize = 3;
/// The part of its time that a fault lasts; in the rest it is over.
const LASTING: f64 = 0.6;
/// The longest time that is needed to recover.
const RECOVERY: Duration = Duration::from_secs(20);
const NEEDS: &[Part] = &[Part::Redis, Part::Haproxy, Part::Nginx];

/// What replicas share, and what then breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    Sentinels,
    Cluster,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Single, Self::Sentinels, Self::Cluster];

    fn test(self) -> &'static str {
        match self {
            Self::Single => "no_request_is_lost_or_repeated_whatever_breaks",
            Self::Sentinels => "nor_when_sentinels_choose_another_redis",
            Self::Cluster => "nor_when_a_redis_cluster_changes",
        }
    }

    fn report(self) -> &'static str {
        match self {
            Self::Single => "e2e",
            Self::Sentinels => "e2e-sentinels",
            Self::Cluster => "e2e-cluster",
        }
    }

    fn agents(self) -> usize {
        match self {
            Self::Single => 50,
            Self::Sentinels | Self::Cluster => 12,
        }
    }

    async fn store(self, folder: &std::path::Path) -> Result<Store> {
        Ok(match self {
            Self::Single => Store::Single(Box::new(Redis::start(folder).await?)),
            Self::Sentinels => Store::Sentinels(Sentinels::start(folder).await?),
            Self::Cluster => Store::Cluster(Cluster::start(folder).await?),
        })
    }

    /// The faults that are wanted, and how long one takes.
    fn faults(self, settings: &Settings) -> (Vec<Fault>, Duration) {
        let all = match self {
            Self::Single if settings.is_long() || !settings.only.is_empty() => &Fault::ALL[..],
            Self::Single => &Fault::SHORT,
            Self::Sentinels => &[Fault::FailSentinelsOver],
            Self::Cluster => &[Fault::FailClusterOver, Fault::MoveSlots],
        };
        let wanted = all.iter().filter(|it| it.name().contains(&settings.only));
        let wanted: Vec<_> = wanted.copied().collect();
        let count = u32::try_from(wanted.len().max(1)).unwrap_or(u32::MAX);
        let each = match self {
            Self::Single => settings.time / count,
            Self::Sentinels | Self::Cluster => (settings.time / 10).clamp(MIN, MAX),
        };
        (wanted, each)
    }
}

/// How long a failover and its recovery take at least, and at most.
const MIN: Duration = Duration::from_secs(12);
const MAX: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // Each needs the whole machine.
    args.test_threads = Some(1);
    let settings = match Settings::read() {
        Ok(settings) => settings,
        Err(error) => {
            say(&format!("{error:?}"));
            return ExitCode::FAILURE;
        }
    };
    let trials = Kind::ALL.map(|kind| trial(kind, &settings));
    libtest_mimic::run(&args, trials.into()).exit_code()
}

fn trial(kind: Kind, settings: &Settings) -> Trial {
    let name = kind.test();
    let mut skip = parts::skipped(name, NEEDS);
    if kind.faults(settings).0.is_empty() {
        say(&format!(
            "SKIPPED: {name} has no fault like {:?}",
            settings.only
        ));
        skip = true;
    }
    let settings = settings.clone();
    let trial = Trial::test(name, move || {
        let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
        let ran = runtime.block_on(run(kind, &settings));
        ran.map_err(|error| format!("{error:?}").into())
    });
    trial.with_ignored_flag(skip)
}

async fn run(kind: Kind, settings: &Settings) -> Result<()> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(kind.report());
    std::fs::remove_dir_all(&folder).ok();
    std::fs::create_dir_all(&folder)?;
    let store = kind.store(&folder).await?;
    let mut replicas = Replicas::sharing(store, REPLICAS, &folder).await?;
    let mut fronts = Fronts::start(&replicas, &folder).await?;
    let fleet = Fleet::start(kind.agents(), &fronts, &folder).await?;
    let token = replicas.cli(&["user", "create", "e2e"]).await?;
    let grant = ["access", "grant", "--agent", "*", "--user", "e2e"];
    replicas
        .cli(&[&grant[..], &["--as", "agent"]].concat())
        .await?;
    reachable(&replicas, &fleet.agents, &token).await?;
    let guests = Guests::new(&fronts, &fleet, &folder, &token)?;

    let (agents, users) = (fleet.agents.clone(), fronts.users());
    let traffic = Traffic::start(settings.rate, users, agents, &token, fleet.apis.clone());
    let mut phases = Vec::new();
    let mut stage = Stage {
        replicas: &mut replicas,
        fronts: &mut fronts,
        fleet: &fleet,
        guests: &guests,
        folder: &folder,
        lasts: Duration::ZERO,
        notes: Vec::new(),
    };
    let disturbed = disturb(&mut stage, kind.faults(settings), &traffic, &mut phases).await;
    let notes = stage.notes;
    let samples = traffic.stop().await;

    let mut marks: Vec<_> = phases.iter().map(|phase| phase.mark.clone()).collect();
    marks.push(audit::mark(&folder)?);
    let noted = audit::read(&folder, &marks, &fleet.agents)?;
    let mut report = Report::new(&phases, &samples, &noted);
    report.posts(&fleet.apis);
    report.notes(notes);
    say(&format!("\n{}", report.text()));
    report.write(kind.report())?;
    if let Err(verdict) = report.verdict() {
        bail!(
            "{verdict}\n{disturbed:?}\nThe logs are in {}",
            folder.display()
        );
    }
    disturbed
}

/// Lets one fault after the other happen.
async fn disturb(
    stage: &mut Stage<'_>,
    (faults, each): (Vec<Fault>, Duration),
    traffic: &Traffic,
    phases: &mut Vec<Phase>,
) -> Result<()> {
    stage.lasts = each.mul_f64(LASTING).max(each.saturating_sub(RECOVERY));
    for fault in faults {
        let began = Instant::now();
        phases.push(Phase {
            fault,
            began,
            mark: audit::mark(stage.folder)?,
        });
        say(&format!(
            "{}: {} requests are over",
            fault.name(),
            traffic.over()
        ));
        fault.happen(stage).await.with_context(|| fault.name())?;
        let rest = each.saturating_sub(began.elapsed());
        sleep(rest.max(Duration::from_secs(2))).await;
    }
    Ok(())
}
