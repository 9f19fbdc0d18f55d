//! What is said at the end: per fault and kind of agent.

mod row;

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::row::Row;
use crate::{
    audit::{Mark, Noted},
    faults::Fault,
    fleet::{Apis, Kind},
    traffic::{Outcome, Sample},
};

/// A fault and its recovery.
#[derive(Debug, Clone)]
pub(crate) struct Phase {
    pub(crate) fault: Fault,
    pub(crate) began: Instant,
    pub(crate) mark: Mark,
}

/// All that happened.
#[derive(Debug)]
pub(crate) struct Report {
    rows: BTreeMap<(usize, Kind), Row>,
    faults: Vec<Fault>,
    failures: Vec<String>,
    duplicates: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(
        phases: &[Phase],
        samples: &[Sample],
        noted: &[BTreeMap<Kind, Noted>],
    ) -> Self {
        let mut rows = BTreeMap::<_, Row>::new();
        let mut failures = Vec::new();
        for sample in samples {
            let begun = phases.iter().filter(|phase| phase.began <= sample.started);
            let index = begun.count().saturating_sub(1);
            rows.entry((index, sample.kind)).or_default().count(sample);
            if let Outcome::Failed(why) = &sample.outcome {
                failures.push(format!(
                    "{}: {:?} of {}, after {:?}: {why}",
                    phases[index].fault.name(),
                    sample.what,
                    sample.kind.name(),
                    sample.took
                ));
            }
        }
        for (index, kinds) in noted.iter().enumerate() {
            for (kind, noted) in kinds {
                rows.entry((index, *kind)).or_default().noted.add(*noted);
            }
        }
        Self {
            rows,
            faults: phases.iter().map(|phase| phase.fault).collect(),
            failures,
            duplicates: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds what the agents' APIs counted.
    pub(crate) fn posts(&mut self, apis: &Apis) {
        for (kind, api) in apis.iter() {
            let twice = api.duplicates();
            self.notes.push(format!(
                "POSTs that came to the API of {}: {}, more than once: {}.",
                kind.name(),
                api.posts(),
                twice.len()
            ));
            self.duplicates.extend(twice);
        }
    }

    /// Adds what else is to be said.
    pub(crate) fn notes(&mut self, notes: Vec<String>) {
        self.notes.extend(notes);
    }

    /// Why it is not good enough, if so.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        if self.rows.values().all(|row| row.requests == 0) {
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

    /// Everything, for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", row::HEAD);
        for ((index, kind), row) in &self.rows {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{}",
                row.line(self.faults[*index].name(), kind.name())
            );
        }
        for (kind, row) in self.totals(|_| true) {
            let _ = writeln!(text, "{}", row.line("all", kind.name()));
        }
        text.push_str(row::LEGEND);
        for (kind, row) in self.totals(Fault::is_reset) {
            let stall = row.longest.as_secs_f64() * 1000.0;
            let _ = writeln!(
                text,
                "Longest stall under load balancers' resets, {}: {stall:.0} ms.",
                kind.name()
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        text
    }

    /// Writes it down, for people and for programs.
    pub(crate) fn write(&self, name: &str) -> Result<()> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/reports");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("{name}.md")), self.text())?;
        let json = serde_json::to_string_pretty(&self.json())?;
        Ok(std::fs::write(folder.join(format!("{name}.json")), json)?)
    }

    fn json(&self) -> Value {
        let rows = self
            .rows
            .iter()
            .map(|((index, kind), row)| row.json(self.faults[*index].name(), kind.name()));
        json!({
            "rows": rows.collect::<Vec<_>>(), "failures": self.failures, "duplicates": self.duplicates,
            "notes": self.notes,
        })
    }

    fn totals(&self, which: impl Fn(Fault) -> bool) -> BTreeMap<Kind, Row> {
        let mut totals = BTreeMap::<Kind, Row>::new();
        for ((index, kind), row) in &self.rows {
            if which(self.faults[*index]) {
                totals.entry(*kind).or_default().add(row);
            }
        }
        totals
    }
}

/// Seconds for a table.
fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}
