//! What agents and replicas need, as a table of Markdown: from runs with idle agents.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context, ensure};
use clap::Args;

use super::{fit::Model, plot::number};
use crate::{output, record::Record};

const BEGIN: &str = "<!-- sizing: written by benches/sizing -->";
const END: &str = "<!-- end of sizing -->";

/// Runs with idle agents.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Folders that `loadtest run` wrote.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// A file whose table is replaced, between its two marks.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// Prints the table, or puts it in its place.
pub(crate) fn sizing(options: &Options) -> anyhow::Result<()> {
    let records = options.runs.iter().map(|run| Record::read(run));
    let records = records.collect::<anyhow::Result<Vec<_>>>()?;
    for record in &records {
        let early = record.ended_early.as_deref();
        ensure!(
            early.is_none(),
            "{} ended early: {}",
            record.scenario,
            early.unwrap_or_default()
        );
    }
    let table = table(&records);
    if let Some(file) = &options.write {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let text = replaced(&text, &table).with_context(|| file.display().to_string())?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    output::line(&table);
    Ok(())
}

fn table(records: &[Record]) -> String {
    let mut table = "| idle agents | replicas | memory of all replicas | for each agent | CPU for each agent | Redis | seconds to connect all |\n\
                     |---|---|---|---|---|---|---|\n"
        .to_owned();
    for record in records {
        let figure = |name: &str| record.figures.get(name).copied();
        let shown = |name: &str, unit: &str| {
            figure(name).map_or("–".to_owned(), |value| format!("{}{unit}", number(value)))
        };
        let redis = match figure("redis_commands_per_second") {
            None => "–".to_owned(),
            Some(commands) => format!(
                "{} commands/s and replica, {}",
                number(commands),
                shown("redis_bytes_per_agent", " bytes an agent")
            ),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {} | {} | {} MiB | {} | {} | {redis} | {} |",
            record.agents,
            record.replicas,
            number(memory(record) / 1024.0),
            shown("kib_per_agent", " KiB"),
            shown("cpu_ms_per_agent_minute", " ms a minute"),
            shown("ready_seconds", ""),
        );
    }
    let single: Vec<_> = records.iter().filter(|it| it.replicas == 1).collect();
    let points: Vec<_> = single
        .iter()
        .map(|it| (it.agents as f64, memory(it)))
        .collect();
    if let Some(fit) = Model::Linear.fit(&points) {
        let _ = writeln!(
            table,
            "\nOne replica: {} MiB, and {} KiB for each agent (least squares over {} runs).",
            number(fit.start / 1024.0),
            number(fit.slope),
            points.len()
        );
    }
    table
}

/// KiB of all replicas with all agents connected and nothing asked of them.
fn memory(record: &Record) -> f64 {
    let empty: u64 = record.empty_kib.values().sum();
    let each = record.figures.get("kib_per_agent").copied();
    empty as f64 + each.unwrap_or(0.0) * record.agents as f64
}

fn replaced(text: &str, table: &str) -> anyhow::Result<String> {
    let (before, rest) = text
        .split_once(BEGIN)
        .with_context(|| format!("no `{BEGIN}`"))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("no `{END}`"))?;
    Ok(format!(
        "{before}{BEGIN}\n{}\n{END}{after}",
        table.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");

        let new = replaced(&text, "new\n").unwrap();

        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert!(replaced("nothing", "new").is_err());
    }
}
