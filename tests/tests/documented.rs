//! The commands of the documents, as they stand there: each block that is marked `sh run`, those of a document in one shell.
//!
//! What differs: ports (others may run on this machine), and folders of the machine, which are the test's and have in them
//! what the package `kas` brings. `kubectl` reaches the demo cluster of a `kas up` that each document has for itself.

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

const MARK: &str = "```sh run";
const LIMIT: Duration = Duration::from_secs(120);
/// Sooner than that.
const SCRIPT_LIMIT: &str = "110s";
/// The blocks end what they have started.
const BEFORE: &str = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n";
const PORTS: [&str; 7] = ["8150", "8151", "8153", "8154", "8155", "8156", "8080"];
const FOLDERS: [&str; 4] = ["/backup", "/etc/kas", "/var/lib/kas", "/var/log/kas"];
const EXAMPLE: &str = include_str!("../../deploy/packages/kas.yaml");
/// Where the example does not say it, that port has to be another one too.
const ADMIN: &str = "admin: {listen: {address: 127.0.0.1:8156}}\n";
/// What shows that the commands of a document have done what it is about.
const PRINTED: [(&str, &str); 6] = [
    ("README.md", "kube-system"),
    ("docs/access.md", "decides"),
    ("docs/admin.md", "default/prod"),
    ("docs/audit.md", "user:alice"),
    ("docs/install.md", "kube-system"),
    ("docs/loadtest.md", "PASSED"),
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// All documents of the tree, by their paths from its root.
fn documents() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = folder.join(&name);
            if entry.file_type()?.is_dir() {
                // What is built, and what is no part of the tree.
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|it| it == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a line begins a block that is meant to be run, in whatever spelling.
fn is_meant(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '\t', '>']);
    let is_fence = line.starts_with("```") || line.starts_with("~~~");
    let mut words = line.split(|letter: char| !letter.is_alphanumeric());
    is_fence && words.any(|word| word == "run")
}

/// The blocks of a document that are run, one after the other; nothing where there is none.
fn blocks(text: &str) -> Result<String> {
    let mut script = String::new();
    let mut lines = text.lines().enumerate();
    while let Some((before, line)) = lines.next() {
        if !is_meant(line) {
            continue;
        }
        let number = before + 1;
        ensure!(
            line == MARK,
            "line {number}: nothing runs this block; the mark is `{MARK}`, from the line's first letter"
        );
        let mut is_closed = false;
        for (_, line) in lines.by_ref() {
            is_closed = line == "```";
            if is_closed {
                break;
            }
            script += line;
            script.push('\n');
        }
        ensure!(is_closed, "line {number}: the block has no end");
    }
    Ok(script)
}

/// The documents that have marked blocks, with these.
fn marked() -> Result<Vec<(String, String)>> {
    let mut marked = Vec::new();
    for document in documents()? {
        let text = std::fs::read_to_string(root().join(&document))?;
        let name = document.display().to_string();
        let script = blocks(&text).with_context(|| name.clone())?;
        if !script.is_empty() {
            marked.push((name, script));
        }
    }
    Ok(marked)
}

/// A free port without the digits of one that is replaced.
fn free_port() -> String {
    loop {
        let port = ports::free().to_string();
        if !PORTS.iter().any(|replaced| port.contains(*replaced)) {
            return port;
        }
    }
}

/// What stands in documents, and what is here in its place.
fn places(folder: &Path) -> Vec<(&'static str, String)> {
    let mut places: Vec<_> = PORTS.into_iter().map(|port| (port, free_port())).collect();
    for name in FOLDERS {
        let ours = folder.join(name.trim_start_matches('/').replace('/', "-"));
        places.push((name, ours.display().to_string()));
    }
    places
}

fn here(text: &str, places: &[(&'static str, String)]) -> String {
    let mut text = text.to_owned();
    for (theirs, ours) in places {
        text = text.replace(*theirs, ours);
    }
    text
}

/// As the package leaves a machine, but for who owns what.
fn install(places: &[(&'static str, String)]) -> Result<()> {
    for folder in FOLDERS {
        std::fs::create_dir_all(here(folder, places))?;
    }
    let configuration = here(&format!("{EXAMPLE}{ADMIN}"), places);
    std::fs::write(here("/etc/kas/kas.yaml", places), configuration)?;
    std::fs::write(here("/var/lib/kas/agents.yaml", places), "agents: []\n")?;
    Ok(())
}

/// Runs a document's blocks; gives what they print.
async fn done(document: &str, blocks: &str) -> Result<String> {
    let up = Up::start(&[]).await?;
    let alone = tempfile::tempdir()?;
    // The README's are for the folder in which `make up` was started.
    let folder = match document {
        "README.md" => up.folder(),
        _ => alone.path(),
    };
    let places = places(folder);
    install(&places)?;
    let script = format!("{BEFORE}{}", here(blocks, &places));
    run(&script, folder, &up.folder().join("kas-data/kubeconfig")).await
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
    // It ends what the script has started too, and what that has printed is told.
    let mut command = Command::new("timeout");
    command
        .args([SCRIPT_LIMIT, "bash", "-c", script])
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

#[test]
fn no_block_that_is_marked_is_left_out() -> Result<()> {
    let marked = marked()?;
    for (document, _) in PRINTED {
        let is_there = marked.iter().any(|(name, _)| name == document);
        ensure!(is_there, "{document} has no block that is marked `sh run`");
    }
    Ok(())
}

#[test]
fn a_mark_that_would_be_overlooked_is_an_error() {
    for text in [
        "```bash run\ntrue\n```\n",
        "   ```sh run\n   true\n   ```\n",
        "~~~sh run\ntrue\n~~~\n",
        "```sh,run\ntrue\n```\n",
        "```sh run\ntrue\n",
    ] {
        assert!(blocks(text).is_err(), "{text}");
    }
    let text = "```sh\nfalse\n```\n\n    false\n\n```sh run\ntrue\n```\n";
    assert!(blocks(text).is_ok_and(|script| script == "true\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_documents_do_what_they_say() -> Result<()> {
    let name = "the_commands_of_the_documents_do_what_they_say";
    if skipped(name, &[Part::Kubectl, Part::Curl, Part::Openssl]) {
        return Ok(());
    }
    let mut failed = Vec::new();
    for (document, blocks) in marked()? {
        let printed = PRINTED.iter().find(|(name, _)| *name == document);
        let printed = printed.map_or("", |(_, printed)| *printed);
        match done(&document, &blocks).await {
            Ok(said) if said.contains(printed) => {}
            Ok(said) => failed.push(format!("{document} does not print {printed}: {said}")),
            Err(error) => failed.push(format!("{document}: {error:#}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}
