//! How it goes, in one line of the terminal.

use std::io::{IsTerminal, Write, stderr};

use tokio::time::Instant;

use crate::{record::Sample, scenario::Scenario};

/// Without a terminal, one line in so many samples.
const REPORT_INTERVAL_SECONDS: u64 = 10;

/// What is shown.
pub(super) struct Progress {
    name: String,
    agents: usize,
    began: Instant,
    terminal: bool,
    shown: std::sync::atomic::AtomicU64,
}

impl Progress {
    pub(super) fn new(scenario: &Scenario, began: Instant) -> Self {
        Self {
            name: scenario.name.clone(),
            agents: scenario.fleet.agents,
            began,
            terminal: stderr().is_terminal(),
            shown: 0.into(),
        }
    }

    /// Shows a sample.
    pub(super) fn show(&self, phase: &str, sample: &Sample) {
        let shown = self
            .shown
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if !self.terminal && !shown.is_multiple_of(REPORT_INTERVAL_SECONDS) {
            return;
        }
        let line = self.line(phase, sample);
        let mut out = stderr().lock();
        // Nobody may be reading, which stops nothing.
        let _ = if self.terminal {
            write!(out, "\r\x1b[K{line}")
        } else {
            writeln!(out, "{line}")
        };
        let _ = out.flush();
    }

    fn line(&self, phase: &str, sample: &Sample) -> String {
        let phase = if phase.is_empty() {
            "agents connect"
        } else {
            phase
        };
        let replicas = |(name, _): &(&String, _)| name.starts_with("replica");
        let replicas: Vec<_> = sample.processes.iter().filter(replicas).collect();
        let resident: u64 = replicas.iter().map(|(_, usage)| usage.resident_kib).sum();
        let registered = sample.fleet.map_or(0, |it| it.registered + it.real_ready);
        format!(
            "{} {:.0} s, {phase}: {registered}/{} agents, {} answered, {} failed, replicas {} MiB{}",
            self.name,
            self.began.elapsed().as_secs_f64(),
            self.agents,
            sample.answered,
            sample.failed,
            resident >> 10,
            owners(sample),
        )
    }

    /// Leaves the line.
    pub(super) fn end(&self) {
        if self.terminal {
            let _ = writeln!(stderr());
        }
    }
}

/// How many agents each replica owns, where there is more than one replica and they say so.
fn owners(sample: &Sample) -> String {
    let owned = sample.metrics.values();
    let owned = owned.filter_map(|it| it.get("connected_agents_count").map(f64::to_string));
    let owned: Vec<_> = owned.collect();
    match owned.len() {
        0 | 1 => String::new(),
        _ => format!(", own {} agents", owned.join(" + ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_told_where_there_are_several() {
        let replica = |number: usize, owns: f64| {
            let metrics = [("connected_agents_count".to_owned(), owns)].into();
            (format!("replica {number}"), metrics)
        };
        let mut sample = Sample::default();
        sample.metrics.extend([replica(1, 3.0)]);
        assert_eq!(owners(&sample), "");

        sample.metrics.extend([replica(2, 4.0)]);

        assert_eq!(owners(&sample), ", own 3 + 4 agents");
    }
}
