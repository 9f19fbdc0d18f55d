//! Reports of runs: one page for one run, or for several side by side.

mod charts;
mod curve;
mod fit;
mod headline;
mod page;
mod plot;
mod sizing;

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context, ensure};
use clap::Args;

pub(crate) use curve::Curve;
pub(crate) use fit::Model;
pub(crate) use page::{Sheet, page};
pub(crate) use plot::number;
pub(crate) use sizing::{Options as SizingOptions, sizing};

use crate::{output, record::Record};

/// Runs to lay side by side.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompareOptions {
    /// Folders that `loadtest run` wrote, or their result.json.
    #[arg(required = true, num_args = 2..=4)]
    runs: Vec<PathBuf>,
    /// The page to write.
    #[arg(long, default_value = "target/reports/compare.html")]
    output: PathBuf,
}

/// Writes the page and prints the figures.
pub(crate) fn compare(options: &CompareOptions) -> anyhow::Result<()> {
    let records = options.runs.iter().map(|run| Record::read(run));
    let records = records.collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(records.len() > 1, "give two runs or more");
    if let Some(folder) = options.output.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let records: Vec<_> = records.iter().collect();
    std::fs::write(&options.output, page(&records))
        .with_context(|| format!("cannot write {}", options.output.display()))?;
    for record in records {
        output::line(&summary(record));
    }
    output::line(&format!("report: {}", options.output.display()));
    Ok(())
}

/// The verdict and figures as text.
pub(crate) fn summary(record: &Record) -> String {
    let verdict = if record.passed() { "PASSED" } else { "FAILED" };
    let mut text = format!(
        "{verdict}: {} ({}, {} agents, {} replicas, {:.0} s)",
        record.scenario, record.target, record.agents, record.replicas, record.seconds
    );
    for it in &record.verdicts {
        let reached = if it.reached { "reached" } else { "MISSED " };
        let measured = it.measured.map_or("not measured".to_owned(), plot::number);
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {reached}  {}: {measured}", it.objective);
    }
    let judged = |name: &str| {
        let mut verdicts = record.verdicts.iter();
        verdicts.any(|it| it.objective.split(' ').next() == Some(name))
    };
    let others = record.figures.iter().filter(|(name, _)| !judged(name));
    for (name, value) in others {
        let _ = write!(text, "\n           {name}: {}", plot::number(*value));
    }
    let _ = write!(text, "\n  {}", headline::headline(record));
    for (what, count) in errors(record) {
        let _ = write!(text, "\n  {count} × {what}");
    }
    if let Some(why) = &record.ended_early {
        let _ = write!(text, "\n  ended early: {why}");
    }
    text
}

/// Failures of requests by reason, over all traffic that counts.
fn errors(record: &Record) -> std::collections::BTreeMap<String, u64> {
    let mut errors = std::collections::BTreeMap::new();
    for stream in record.streams.iter().filter(|it| !it.warm_up) {
        for (what, count) in &stream.total.errors {
            let what = format!("{}, {what}", stream.kind.name());
            *errors.entry(what).or_default() += count;
        }
    }
    errors
}
