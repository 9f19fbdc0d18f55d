//! `docs/clients.md`: what the clients did, as a table.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context, Result, ensure};
use tests::parts::{self, say};

use crate::client::{Action, Client, Program};

const UPDATE: &str = "UPDATE_CLIENTS";
const BEGIN: &str = "<!-- The table is written by `make test-clients UPDATE=1`. -->\n";
const END: &str = "<!-- End of the table. -->\n";

/// What a client saw by both ways.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    client: String,
    action: Action,
    direct: Result<String, String>,
    through: Result<String, String>,
}

impl Outcome {
    pub(crate) fn new(
        client: &Client,
        action: Action,
        direct: Result<String>,
        through: Result<String>,
    ) -> Self {
        let told = |seen: Result<String>| seen.map_err(|error| format!("{error:#}"));
        Self {
            client: client.label(),
            action,
            direct: told(direct),
            through: told(through),
        }
    }

    fn is_same(&self) -> bool {
        self.direct.is_ok() && self.direct == self.through
    }

    /// How it is not the same, if so.
    pub(crate) fn differs(&self) -> Option<String> {
        let (client, word) = (&self.client, self.action.word());
        let shown = |seen: &Result<String, String>| match seen {
            Ok(text) if text.len() > 400 => format!("{} bytes", text.len()),
            other => format!("{other:?}"),
        };
        let both = (shown(&self.direct), shown(&self.through));
        (!self.is_same()).then(|| format!("{client}, {word}: direct {}, kas {}", both.0, both.1))
    }

    fn cell(&self) -> &'static str {
        match (self.is_same(), self.direct.is_ok()) {
            (true, _) => "same",
            (false, true) => "**differs**",
            (false, false) => "fails directly too",
        }
    }
}

/// Compares with the committed table, or writes it.
pub(crate) fn compare(clients: &[Client], outcomes: &[Outcome]) -> Result<()> {
    let rows: Vec<_> = clients.iter().map(|it| row(it, outcomes)).collect();
    for row in &rows {
        say(row);
    }
    let version = parts::kubernetes_version();
    if version.trim() != include_str!("../../setup/kubernetes-version").trim() {
        say(&format!(
            "the table is of another Kubernetes than {version}"
        ));
        return Ok(());
    }
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/clients.md");
    let text = std::fs::read_to_string(&file).context("docs/clients.md")?;
    let (before, rest) = text.split_once(BEGIN).context("no table in the document")?;
    let (old, after) = rest.split_once(END).context("the table has no end")?;
    if std::env::var_os(UPDATE).is_some_and(|it| it == "1") {
        let table = table(&version, &kept(old, &rows));
        return Ok(std::fs::write(
            file,
            format!("{before}{BEGIN}{table}{END}{after}"),
        )?);
    }
    for (client, row) in clients.iter().zip(rows) {
        let known = old.contains(&format!("| {} | {} |", client.name, client.version));
        // Which versions of kubectl are built depends on the machine.
        if !known && matches!(client.program, Program::Kubectl(_)) {
            say(&format!("docs/clients.md does not have {}", client.label()));
            continue;
        }
        ensure!(
            old.contains(&row),
            "docs/clients.md lacks this row; `make test-clients UPDATE=1` writes it:\n{row}"
        );
    }
    Ok(())
}

/// The rows, and those that the table has of clients that are not here.
fn kept(old: &str, rows: &[String]) -> Vec<String> {
    // Of kubectl there is a row for each version.
    let name = |row: &str| {
        let columns = if row.starts_with("| kubectl |") { 3 } else { 2 };
        row.split('|').take(columns).collect::<Vec<_>>().join("|")
    };
    let is_here = |old: &&str| rows.iter().any(|row| name(row) == name(old));
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| client |");
    let others = old.lines().filter(is_row).filter(|it| !is_here(it));
    let mut all: Vec<_> = others.map(str::to_owned).chain(rows.to_vec()).collect();
    all.sort();
    all
}

fn table(version: &str, rows: &[String]) -> String {
    let mut table = format!("\nOn Kubernetes {version}:\n\n| client | version |");
    for action in Action::ALL {
        write!(table, " {} |", action.heading()).expect("a string takes all");
    }
    table += "\n|---|---|";
    table += &"---|".repeat(Action::ALL.len());
    format!("{table}\n{}\n\n", rows.join("\n"))
}

fn row(client: &Client, outcomes: &[Outcome]) -> String {
    let mut row = format!("| {} | {} |", client.name, client.version);
    for action in Action::ALL {
        let of_it = |it: &&Outcome| it.client == client.label() && it.action == action;
        let cell = outcomes.iter().find(of_it).map_or("", Outcome::cell);
        row += &format!(" {cell} |");
    }
    row
}
