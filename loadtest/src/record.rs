//! All that a run saw: what reports are made from, and kept as `result.json`.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::{
    origin::Origin,
    scenario::Verdict,
    traffic::{self, Kind, Point},
};

/// One run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) scenario: String,
    pub(crate) about: String,
    /// Whose kas.
    pub(crate) target: String,
    pub(crate) program: String,
    /// What the program says of itself with `--version`.
    #[serde(default)]
    pub(crate) version: String,
    /// Version and commit of the loadtest that measured.
    #[serde(default)]
    pub(crate) loadtest: String,
    /// When it began, in seconds since 1970.
    pub(crate) began: u64,
    pub(crate) seconds: f64,
    pub(crate) cpus: usize,
    /// What CPUs they are.
    #[serde(default)]
    pub(crate) cpu: String,
    pub(crate) agents: usize,
    /// How many of them were agentk processes.
    #[serde(default)]
    pub(crate) real: usize,
    pub(crate) replicas: usize,
    /// Resident memory of each replica before an agent came.
    pub(crate) empty_kib: BTreeMap<String, u64>,
    pub(crate) phases: Vec<Span>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) samples: Vec<Sample>,
    /// What was measured, by name.
    pub(crate) figures: BTreeMap<String, f64>,
    pub(crate) verdicts: Vec<Verdict>,
    /// What the fleet counted as failures, by reason.
    pub(crate) fleet_failures: BTreeMap<String, u64>,
    /// Why it ended early, if it did.
    pub(crate) ended_early: Option<String>,
}

/// A phase, in seconds from the beginning.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) warm_up: bool,
    /// Without traffic.
    pub(crate) idle: bool,
}

/// A fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) what: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// One kind of traffic in one phase.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stream {
    pub(crate) phase: String,
    pub(crate) kind: Kind,
    pub(crate) warm_up: bool,
    pub(crate) total: traffic::Report,
    pub(crate) points: Vec<Point>,
}

/// Everything at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds from the beginning.
    pub(crate) at: f64,
    /// Requests answered so far, and failed.
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) processes: BTreeMap<String, Usage>,
    /// Nothing while it does not answer.
    pub(crate) redis: Option<Redis>,
    /// Metrics of each replica, summed over their labels.
    pub(crate) metrics: BTreeMap<String, BTreeMap<String, f64>>,
    pub(crate) fleet: Option<Fleet>,
}

/// What a process uses.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Milliseconds of CPU since the run began.
    pub(crate) cpu_ms: f64,
    pub(crate) resident_kib: u64,
    pub(crate) files: usize,
}

/// Counters of Redis; those who ask for them are not counted.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Redis {
    pub(crate) commands: u64,
    pub(crate) bytes: u64,
}

/// What the fleet says of itself.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Fleet {
    pub(crate) connected: usize,
    pub(crate) registered: usize,
    pub(crate) idle_tunnels: usize,
    /// agentk processes that say that they are ready.
    #[serde(default)]
    pub(crate) real_ready: usize,
    pub(crate) connections_made: u64,
}

impl Record {
    /// Reads the result of a run: the file, or the folder that it is in.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = if path.is_dir() {
            path.join("result.json")
        } else {
            path.to_owned()
        };
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is no result of `loadtest run`", file.display()))
    }

    /// Whether nothing went wrong and all objectives were reached.
    pub(crate) fn passed(&self) -> bool {
        self.ended_early.is_none() && self.verdicts.iter().all(|verdict| verdict.reached)
    }

    /// What was measured, when, and on what.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            programs: vec![(self.version.clone(), self.program.clone())],
            began: self.began,
            cpus: self.cpus,
            cpu: self.cpu.clone(),
            loadtest: self.loadtest.clone(),
        }
    }

    /// Names of the processes that are replicas.
    pub(crate) fn replica_names(&self) -> impl Iterator<Item = &String> {
        self.empty_kib.keys()
    }
}

impl Sample {
    /// Sums a figure over the processes of these names.
    pub(crate) fn sum<'a>(
        &self,
        names: impl IntoIterator<Item = &'a String>,
        figure: impl Fn(&Usage) -> f64,
    ) -> f64 {
        let used = names
            .into_iter()
            .filter_map(|name| self.processes.get(name));
        used.map(figure).sum()
    }
}
