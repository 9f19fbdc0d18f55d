//! The commands of the documents, as they stand there: each block that is marked `sh run`, in one shell a document.
//!
//! What differs: ports (others may run on this machine), and `/etc/kas`, which is a folder of the test's.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tests::{
    parts::{self, Part, skipped},
    ports, programs,
    up::Up,
};
use tokio::process::Command;

const README: &str = include_str!("../../README.md");
const INSTALL: &str = include_str!("../../docs/install.md");
const LIMIT: Duration = Duration::from_secs(120);
/// The blocks end what they have started.
const BEFORE: &str = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n";

/// The blocks that are run, one after the other.
fn blocks(document: &str) -> Result<String> {
    let mut script = String::from(BEFORE);
    let mut lines = document.lines();
    let mut number = 0;
    while let Some(line) = lines.next() {
        if line != "```sh run" {
            continue;
        }
        number += 1;
        for line in lines.by_ref().take_while(|line| *line != "```") {
            script += line;
            script.push('\n');
        }
    }
    ensure!(number > 0, "no block is marked `sh run`");
    Ok(script)
}

/// Runs a script with our programs first on its path; gives what it prints.
async fn run(script: &str, folder: &Path, kubeconfig: &Path) -> Result<String> {
    let ours = programs::kas()?;
    let kubectl = parts::program("kubectl").context("no kubectl")?;
    let before = [ours.parent(), kubectl.parent()].map(|it| it.map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = before
        .into_iter()
        .flatten()
        .chain(std::env::split_paths(&path));
    let path = std::env::join_paths(path.collect::<Vec<PathBuf>>())?;
    let mut command = Command::new("bash");
    command
        .args(["-c", script])
        .current_dir(folder)
        .env("PATH", path)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let logs = ["kas.log", "agentk.log"].map(|name| folder.join(name));
    let logs = logs.map(|log| std::fs::read_to_string(log).unwrap_or_default());
    ensure!(
        output.status.success(),
        "{said}{}{}",
        String::from_utf8_lossy(&output.stderr),
        logs.concat()
    );
    Ok(said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_and_the_five_steps_do_what_they_say() -> Result<()> {
    let name = "the_readme_and_the_five_steps_do_what_they_say";
    if skipped(name, &[Part::Kubectl, Part::Curl, Part::Openssl]) {
        return Ok(());
    }
    // What `make up` starts, and a cluster for the five steps.
    let up = Up::start(&[]).await?;
    let demo = up.folder().join("kas-data/kubeconfig");

    let etc = up.folder().join("etc-kas").display().to_string();
    let script = blocks(README)?.replace("/etc/kas", &etc);
    let said = run(&script, up.folder(), &demo).await?;
    ensure!(said.contains("kube-system"), "{said}");
    ensure!(up.folder().join("kubeconfig").is_file(), "{said}");

    let folder = tempfile::tempdir()?;
    let mut script = blocks(INSTALL)?;
    for port in ["8150", "8151", "8154", "8080"] {
        ensure!(script.contains(port), "{port}");
        script = script.replace(port, &ports::free().to_string());
    }
    let said = run(&script, folder.path(), &demo).await?;
    ensure!(said.contains("kube-system"), "{said}");
    Ok(())
}
