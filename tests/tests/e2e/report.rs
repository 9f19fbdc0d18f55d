//! What is said at the end: per fault and kind of agent.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    faults::Fault,
    fleet::Kind,
    traffic::{Outcome, Sample},
};

/// A fault and its recovery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    pub(crate) fault: Fault,
    pub(crate) began: Instant,
}

/// All that happened.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<(Fault, Kind, Row)>,
    failures: Vec<String>,
    pub(crate) duplicates: Vec<String>,
}

#[derive(Debug, Default, Clone)]
struct Row {
    requests: usize,
    failed: usize,
    unknown: usize,
    client_retries: u64,
    held: usize,
    longest: Duration,
}

/// Requests that took longer were held, or made again.
const HELD: Duration = Duration::from_secs(1);

impl Report {
    pub(crate) fn new(phases: &[Phase], samples: &[Sample], duplicates: Vec<String>) -> Self {
        let mut rows: BTreeMap<(usize, Kind), Row> = BTreeMap::new();
        let mut failures = Vec::new();
        for sample in samples {
            let begun = phases.iter().filter(|phase| phase.began <= sample.started);
            let index = begun.count().saturating_sub(1);
            let row = rows.entry((index, sample.kind)).or_default();
            row.requests += 1;
            row.client_retries += sample.client_retries;
            row.held += usize::from(sample.took > HELD);
            row.longest = row.longest.max(sample.took);
            match &sample.outcome {
                Outcome::Good => {}
                Outcome::Unknown => row.unknown += 1,
                Outcome::Failed(why) => {
                    row.failed += 1;
                    let method = if sample.safe { "GET" } else { "POST" };
                    failures.push(format!(
                        "{}: {method} to {}, after {:?}: {why}",
                        phases[index].fault.name(),
                        sample.kind.name(),
                        sample.took
                    ));
                }
            }
        }
        let rows = rows.into_iter();
        Self {
            rows: rows
                .map(|((index, kind), row)| (phases[index].fault, kind, row))
                .collect(),
            failures,
            duplicates,
        }
    }

    /// Why it is not good enough, if so.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        if self.rows.is_empty() {
            return Err("no request was made, so nothing was shown".to_owned());
        }
        if self.failures.is_empty() && self.duplicates.is_empty() {
            return Ok(());
        }
        let shown: Vec<_> = self.failures.iter().take(20).cloned().collect();
        Err(format!(
            "{} requests failed, {} were carried out twice\n{}\n{}",
            self.failures.len(),
            self.duplicates.len(),
            shown.join("\n"),
            self.duplicates.join("\n")
        ))
    }

    /// Everything, for programs.
    pub(crate) fn json(&self, replays: &Value) -> Value {
        let row = |(fault, kind, row): &(Fault, Kind, Row)| {
            json!({
                "fault": fault.name(), "agents": kind.name(), "requests": row.requests, "failed": row.failed,
                "outcome_unknown": row.unknown, "client_retries": row.client_retries, "over_1s": row.held,
                "longest_s": row.longest.as_secs_f64(),
            })
        };
        json!({
            "phases": self.rows.iter().map(row).collect::<Vec<_>>(),
            "replays_by_kas": replays, "failures": self.failures, "duplicates": self.duplicates,
        })
    }

    pub(crate) fn table(&self) -> String {
        let mut table = String::from(
            "| fault | agents | requests | failed | outcome unknown (POST) | client's own retries | over 1 s | longest s |\n|---|---|---|---|---|---|---|---|\n",
        );
        for (fault, kind, row) in &self.rows {
            // Writing to a string cannot fail.
            let _ = writeln!(
                table,
                "| {} | {} | {} | {} | {} | {} | {} | {:.2} |",
                fault.name(),
                kind.name(),
                row.requests,
                row.failed,
                row.unknown,
                row.client_retries,
                row.held,
                row.longest.as_secs_f64()
            );
        }
        table
    }
}
