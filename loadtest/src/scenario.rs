//! A scenario: what is started, what happens to it when, and what it must achieve.

mod fault;
mod objectives;
mod topology;

use std::path::{Path, PathBuf};

use anyhow::Context;
use runtime::yaml::{self, Spanned, YamlError};
use serde::Deserialize;

use crate::traffic::Traffic;

pub(crate) use fault::{Action, Fault, Subject};
pub(crate) use objectives::{Objectives, Verdict};
pub(crate) use topology::{Attach, Topology};

/// A whole scenario file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Its name in reports.
    pub(crate) name: String,
    /// What it is for, in a sentence or two.
    #[serde(default)]
    pub(crate) about: String,
    #[serde(default)]
    pub(crate) topology: Topology,
    #[serde(default)]
    pub(crate) fleet: Fleet,
    /// What happens, one after the other.
    pub(crate) phases: Vec<Spanned<Phase>>,
    #[serde(default)]
    pub(crate) objectives: Objectives,
    /// Seconds between two samples of every process.
    #[serde(default = "one")]
    pub(crate) sample_every: f64,
}

/// The agents.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fleet {
    /// How many.
    pub(crate) agents: usize,
    /// Agents that begin to connect in a second.
    pub(crate) ramp: f64,
    /// Idle tunnels that each holds at least.
    pub(crate) tunnels: usize,
    /// Reconnect as our agentk does; otherwise as GitLab's.
    pub(crate) eager: bool,
    /// Reconnect at once again and again, worse than either.
    pub(crate) impatient: bool,
    /// Agents that drop their connections in a second.
    pub(crate) churn: f64,
    /// How many of them are agentk processes.
    pub(crate) real: usize,
    /// Their program; by default the agentk beside this program.
    pub(crate) agentk: Option<PathBuf>,
}

/// A part of the scenario with the same traffic.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    pub(crate) name: String,
    /// How long it lasts.
    pub(crate) seconds: f64,
    /// Its requests do not count for the objectives.
    #[serde(default)]
    pub(crate) warm_up: bool,
    #[serde(default)]
    pub(crate) traffic: Vec<Spanned<Traffic>>,
    #[serde(default)]
    pub(crate) faults: Vec<Spanned<Fault>>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            agents: 1,
            ramp: 500.0,
            tunnels: 2,
            eager: false,
            impatient: false,
            churn: 0.0,
            real: 0,
            agentk: None,
        }
    }
}

fn one() -> f64 {
    1.0
}

impl Scenario {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The first mistake, with its line and column.
    pub(crate) fn load(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the scenario {}", file.display()))?;
        Ok(Self::read(file, &text)?)
    }

    fn read(file: &Path, text: &str) -> Result<Self, YamlError> {
        let scenario: Self = yaml::read(file, text)?;
        scenario.check(file)?;
        Ok(scenario)
    }

    /// Checks what its types do not say.
    ///
    /// # Errors
    /// The first mistake.
    pub(crate) fn check(&self, file: &Path) -> Result<(), YamlError> {
        let whole = |message: &str| YamlError {
            file: file.to_owned(),
            line: 1,
            column: 1,
            message: message.to_owned(),
        };
        if self.phases.is_empty() {
            return Err(whole("`phases` must have at least one phase"));
        }
        if self.topology.replicas == 0 || self.fleet.agents == 0 {
            return Err(whole("`replicas` and `agents` must be at least 1"));
        }
        let (samples, ramps) = (0.1..=3600.0, 0.01..=1e6);
        if !samples.contains(&self.sample_every) || !ramps.contains(&self.fleet.ramp) {
            return Err(whole("`sample_every` must be at least 0.1, `ramp` above 0"));
        }
        let fleet = &self.fleet;
        if !(0.0..=1e6).contains(&fleet.churn) || fleet.real > fleet.agents {
            return Err(whole(
                "`churn` must not be below 0, nor `real` above `agents`",
            ));
        }
        for phase in &self.phases {
            if !(phase.value.seconds > 0.0 && phase.value.seconds < 1e6) {
                return Err(YamlError::at(file, phase, "`seconds` must be above 0"));
            }
            for traffic in &phase.value.traffic {
                let checked = traffic.value.check();
                checked.map_err(|message| YamlError::at(file, traffic, message))?;
            }
            for fault in &phase.value.faults {
                let checked = fault.value.check(&self.topology, phase.value.seconds);
                checked.map_err(|message| YamlError::at(file, fault, message))?;
            }
        }
        Ok(())
    }

    /// Seconds of all phases together.
    pub(crate) fn seconds(&self) -> f64 {
        self.phases.iter().map(|phase| phase.value.seconds).sum()
    }

    /// Whether a fault happens to users' connections.
    pub(crate) fn disturbs_users(&self) -> bool {
        let mut faults = self.phases.iter().flat_map(|phase| &phase.value.faults);
        faults.any(|fault| fault.value.of == Some(Subject::Users))
    }

    /// Connections that its traffic may hold at the same time.
    pub(crate) fn clients(&self) -> usize {
        let of = |phase: &Spanned<Phase>| {
            let traffic = phase.value.traffic.iter();
            traffic.map(|it| it.value.clients()).sum::<usize>()
        };
        self.phases.iter().map(of).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
name: small
topology: {replicas: 2, balancer: true}
fleet: {agents: 20}
phases:
  - name: all
    seconds: 5
    traffic:
      - {kind: short, rate: 50}
    faults:
      - {at: 1, do: cut, of: agents, every: 1, for: 3}
objectives: {max_failed: 0, p99_ms: 500}
";

    fn error(text: &str) -> String {
        let mistake = Scenario::read(Path::new("s.yaml"), text);
        mistake.expect_err("it is wrong").to_string()
    }

    #[test]
    fn a_scenario_is_read() {
        let scenario = Scenario::read(Path::new("s.yaml"), GOOD).unwrap();

        assert_eq!(scenario.fleet.agents, 20);
        assert_eq!(scenario.phases[0].value.faults[0].value.action, Action::Cut);
        assert_eq!(scenario.objectives.max_failed, Some(0));
    }

    #[test]
    fn typos_are_named_with_their_place_and_what_was_meant() {
        assert_eq!(
            error(&GOOD.replace("agents: 20", "agnets: 20")),
            "s.yaml:3:9: unknown key `agnets`, did you mean `agents`?"
        );
        assert_eq!(
            error(&GOOD.replace("do: cut", "do: cutt")),
            "s.yaml:10:21: unknown value `cutt`, did you mean `cut`?"
        );
        assert_eq!(
            error(&GOOD.replace("kind: short", "kind: shrot")),
            "s.yaml:8:16: unknown value `shrot`, did you mean `short`?"
        );
        assert_eq!(
            error(&GOOD.replace("balancer: true", "scheme: wsss")),
            "s.yaml:2:33: unknown value `wsss`, did you mean `wss`?"
        );
        assert_eq!(
            error(&GOOD.replace("p99_ms", "p99ms")),
            "s.yaml:11:29: unknown key `p99ms`, did you mean `p99_ms`?"
        );
    }

    #[test]
    fn what_makes_no_sense_is_named_where_it_stands() {
        assert_eq!(
            error(&GOOD.replace("of: agents", "of: replica-3")),
            "s.yaml:10:9: there is no replica 3 of 2"
        );
        assert_eq!(
            error(&GOOD.replace("at: 1,", "at: 7,")),
            "s.yaml:10:9: `at: 7` is after the end of the phase"
        );
        assert!(error(&GOOD.replace("rate: 50", "rate: -1")).contains(":8:9: `rate`"));
        assert!(error(&GOOD.replace("agents: 20", "agents: 20, real: 21")).contains("`real`"));
        assert!(error("name: x\nphases: []\n").contains("at least one phase"));
    }

    #[test]
    fn the_scenarios_in_the_tree_are_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
        let flapping = Scenario::load(&folder.join("flapping-10k.yaml")).unwrap();
        let grows = flapping.objectives.grown_kib_per_agent;
        assert!(grows.is_some(), "whether anything grows is what it asks");
        let mut names = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let scenario = Scenario::load(&file.unwrap().path());
            names.push(scenario.unwrap_or_else(|error| panic!("{error}")).name);
        }
        for name in [
            "idle-10k",
            "steady",
            "lb-drops",
            "rolling-restart",
            "replica-kill",
            "redis-outage",
            "reconnect-storm",
            "slow-reader",
            "bulk",
            "mixed-soak",
        ] {
            assert!(
                names.iter().any(|known| known == name),
                "{name} of {names:?}"
            );
        }
    }
}
