//! `kas`, `agentk` and `loadtest`: the help of each command.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use tests::programs;
use tokio::process::Command;

use super::head;

/// Commands that are there for each program and say nothing of it.
const OF_CLAP: &str = "help";
/// The deepest that commands are nested.
const DEPTH: usize = 4;

/// The page of a program.
pub(super) async fn page(program: &str) -> Result<String> {
    let about =
        format!("What `{program} --help` and `{program} COMMAND --help` print, for each command.");
    let mut page = head(&format!("{program}: command line"), &about);
    let mut ahead = vec![vec![program.to_owned()]];
    while let Some(command) = ahead.pop() {
        let help = help(program, &command[1..]).await?;
        // Writing to a string does not fail.
        let _ = write!(page, "\n## {}\n\n```text\n{help}\n```\n", command.join(" "));
        if command.len() < DEPTH {
            let below = subcommands(&help).map(|it| [&command[..], &[it.to_owned()]].concat());
            let below: Vec<_> = below.collect();
            ahead.extend(below.into_iter().rev());
        }
    }
    Ok(page)
}

async fn help(program: &str, command: &[String]) -> Result<String> {
    let path = match program {
        "kas" => programs::kas()?,
        "agentk" => programs::own_agentk()?,
        _ => programs::loadtest()?,
    };
    // Variables of the environment would be shown as defaults.
    let output = Command::new(path)
        .args(command)
        .arg("--help")
        .env_clear()
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("{program} {command:?}"))?;
    ensure!(output.status.success(), "{program} {command:?}: {output:?}");
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<_> = text.trim_end().lines().map(str::trim_end).collect();
    Ok(lines.join("\n"))
}

/// The names below `Commands:`.
fn subcommands(help: &str) -> impl Iterator<Item = &str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let name = line.strip_prefix("  ")?;
            name.starts_with(|c: char| c.is_ascii_lowercase())
                .then(|| name.split_whitespace().next())?
        })
        .filter(|name| *name != OF_CLAP)
}
