//! `docs/conformance.md`: how many tests pass by each way, as a table.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tests::parts::{self, say};

use crate::{
    exceptions::Exceptions,
    outcomes::{Kept, Outcomes, is_unknown_write},
    settings::{Group, Way},
};

const UPDATE: &str = "UPDATE_CONFORMANCE";
const BEGIN: &str = "<!-- The tables are written by `make conformance UPDATE=1`. -->\n";
const END: &str = "<!-- End of the tables. -->\n";

/// Cells of a row that do not depend on where the resets hit.
const LASTING_CELLS: usize = 5;

/// Compares with the committed tables, or writes them.
pub(crate) fn compare(kept: &Kept) -> Result<()> {
    let tables = tables(kept)?;
    say(&tables);
    let version = parts::kubernetes_version();
    if version != include_str!("../../setup/kubernetes-version").trim() {
        say(&format!(
            "docs/conformance.md is of another Kubernetes than {version}"
        ));
        return Ok(());
    }
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
    let text = std::fs::read_to_string(&file).context("docs/conformance.md")?;
    let (before, rest) = text
        .split_once(BEGIN)
        .context("no tables in the document")?;
    let (old, after) = rest.split_once(END).context("the tables have no end")?;
    if std::env::var_os(UPDATE).is_some_and(|it| it == "1") {
        let text = format!("{before}{BEGIN}{tables}{END}{after}");
        return Ok(std::fs::write(file, text)?);
    }
    ensure!(
        lasting(old) == lasting(&tables),
        "docs/conformance.md has other tables; `make conformance UPDATE=1` writes them"
    );
    Ok(())
}

/// Without what a run with resets came to, which is chance.
fn lasting(tables: &str) -> Vec<String> {
    let cells = |line: &str| line.split('|').map(str::to_owned).collect::<Vec<_>>();
    let lines = tables.lines().map(cells);
    let lasting = lines.map(|cells| cells[..cells.len().min(LASTING_CELLS)].join("|"));
    lasting.collect()
}

fn tables(kept: &Kept) -> Result<String> {
    let version = parts::kubernetes_version();
    let heading = "| group | tests | pass directly | of these, through kas | with resets | a write's outcome unknown |";
    let mut text = format!("\nOn Kubernetes {version}:\n\n{heading}\n|---|---|---|---|---|---|\n");
    let exceptions = Exceptions::committed()?;
    for group in Group::ALL {
        text += &row(group, kept, &exceptions)?;
    }
    text += "\n| fails directly, since | tests |\n|---|---|\n";
    for (reason, tests) in exceptions.reasons() {
        text += &format!("| {reason} | {tests} |\n");
    }
    Ok(text + "\n")
}

fn row(group: Group, kept: &Kept, exceptions: &Exceptions) -> Result<String> {
    let Some(direct) = kept.of(group, Way::Direct)? else {
        return Ok(format!("| {group} | not run | | | | |\n"));
    };
    let all = direct.count() + exceptions.of(group, Way::Direct).len();
    let passed = direct.passed().count();
    let (kas, _) = through(&direct, kept.of(group, Way::Kas)?);
    let (cuts, unknown) = through(&direct, kept.of(group, Way::Cuts)?);
    Ok(format!(
        "| {group} | {all} | {passed} | {kas} | {cuts} | {unknown} |\n"
    ))
}

/// How many pass of those that pass directly, and how many are told that a write's outcome is unknown.
fn through(direct: &Outcomes, outcomes: Option<Outcomes>) -> (String, String) {
    let Some(outcomes) = outcomes else {
        return ("not run".to_owned(), String::new());
    };
    let passed = outcomes.passed().filter(|test| direct.passes(test));
    let failed = outcomes.failed().filter(|(test, _)| direct.passes(test));
    let unknown = failed.filter(|(_, why)| is_unknown_write(why));
    (passed.count().to_string(), unknown.count().to_string())
}
