//! A client is asked for something, by one way, and what it says is taken down.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use tests::{http as client, process::Process};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{
    client::{Action, Client, Program},
    world::{COMMAND, LARGE, PAGE, POD, PORT, SAID, WATCHED, Way},
};

const LIMIT: Duration = Duration::from_secs(90);
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/chart");

/// Does it, and gives what a user sees.
pub(crate) async fn done(
    client: &Client,
    action: Action,
    way: &Way,
    folder: &Path,
) -> Result<String> {
    let doing = async {
        match (&client.program, action) {
            (Program::Kubectl(program), Action::Forward) => {
                let name = name(client, action, way);
                forward(program, way, &name, folder).await
            }
            (Program::Kubectl(program), _) => kubectl(program, action, way).await,
            (Program::Helm(program), _) => release(program, way, folder, &client.version).await,
            (Program::Library(program), _) => {
                let ended = ended(Client::library(program, action, way), "").await?;
                ensure!(ended.code == 0, "{}", ended.stderr);
                Ok(ended.stdout)
            }
        }
    };
    let done = tokio::time::timeout(LIMIT, doing).await;
    done.with_context(|| format!("over {LIMIT:?}"))
        .flatten()
        .with_context(|| name(client, action, way))
}

/// Begins what goes on, with its output in a file.
pub(crate) fn begun(client: &Client, action: Action, way: &Way, folder: &Path) -> Result<Process> {
    let mut command = match &client.program {
        Program::Kubectl(program) => {
            let mut command = kubectl_at(program, way);
            command
                .args(["get", "configmaps", "--watch", "--selector", WATCHED])
                .args(["--output", "jsonpath={.metadata.labels.round}{\"\\n\"}"]);
            command
        }
        Program::Library(program) => Client::library(program, action, way),
        Program::Helm(_) => bail!("Helm watches nothing"),
    };
    Process::spawn(&name(client, action, way), &mut command, folder)
}

fn name(client: &Client, action: Action, way: &Way) -> String {
    let label = client.label().replace([' ', '/', '@'], "-");
    format!("{label}-{}-{}", action.word(), way.name)
}

/// What a program has left.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

async fn ended(mut command: Command, stdin: &str) -> Result<Ended> {
    command.kill_on_drop(true).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let mut pipe = child.stdin.take().context("standard input")?;
    // A program that ends without reading its input is no error.
    pipe.write_all(stdin.as_bytes()).await.ok();
    drop(pipe);
    let output = child.wait_with_output().await?;
    Ok(Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn kubectl_at(program: &Path, way: &Way) -> Command {
    let mut command = Command::new(program);
    command.arg("--kubeconfig").arg(&way.kubeconfig);
    // Each version has a cache of its own, so that none reads what another has found.
    let cache = program.parent().and_then(Path::file_name);
    let cache = cache.unwrap_or_default().to_string_lossy().into_owned();
    command.env("KUBECACHEDIR", way.kubeconfig.with_extension(cache));
    command.env("KUBERC", "off");
    command
}

async fn kubectl(program: &Path, action: Action, way: &Way) -> Result<String> {
    let mut command = kubectl_at(program, way);
    let mut stdin = "";
    match action {
        Action::List => {
            let page = format!("--chunk-size={PAGE}");
            command.args(["get", "configmaps", "--output=name", &page]);
        }
        Action::Logs => {
            command.args(["logs", POD]);
        }
        _ => {
            stdin = SAID;
            command.args(["exec", "-i", POD, "--", "sh", "-c", COMMAND]);
        }
    }
    let ended = ended(command, stdin).await?;
    let expected = if action == Action::Exec { 3 } else { 0 };
    ensure!(
        ended.code == expected,
        "code {}: {}",
        ended.code,
        ended.stderr
    );
    Ok(match action {
        Action::Exec => format!(
            "stdout: {}stderr: {}code: {}",
            ended.stdout, ended.stderr, ended.code
        ),
        _ => ended.stdout,
    })
}

async fn forward(program: &Path, way: &Way, name: &str, folder: &Path) -> Result<String> {
    let mut command = kubectl_at(program, way);
    command.args(["port-forward", &format!("pod/{POD}"), &format!(":{PORT}")]);
    let mut forwarding = Process::spawn(name, &mut command, folder)?;
    let line = forwarding
        .wait_for("Forwarding from 127.0.0.1:", LIMIT)
        .await?;
    let port = line.split("127.0.0.1:").nth(1);
    let port = port
        .and_then(|it| it.split(' ').next())
        .context("no port")?;
    let body = client::get(&format!("http://127.0.0.1:{port}{LARGE}"), "none").await;
    let body = body.with_context(|| forwarding.tail())?.into_body();
    Ok(format!(
        "{} {}",
        body.len(),
        hex::encode(Sha256::digest(&body))
    ))
}

/// A release of a chart, from its beginning to its end.
async fn release(program: &Path, way: &Way, folder: &Path, version: &str) -> Result<String> {
    let homes = helm_homes(folder, version, way)?;
    let namespace = format!("{}-{}", way.name, version.replace('.', "-"));
    let chart: &[&str] = &["web", CHART, "--wait", "--timeout=60s"];
    let steps: [&[&str]; 6] = [
        &[&["install"], chart, &["--create-namespace"]].concat(),
        &[&["upgrade"], chart, &["--set=round=2"]].concat(),
        &["get", "manifest", "web"],
        &["get", "values", "web"],
        &["uninstall", "web", "--wait"],
        &["list", "--all", "--short"],
    ];
    let mut said = String::new();
    for step in steps {
        let mut command = Command::new(program);
        command.arg("--kubeconfig").arg(&way.kubeconfig);
        command.args(["--namespace", &namespace]).args(step);
        command.envs(homes.iter().map(|(name, folder)| (*name, folder)));
        let ended = ended(command, "").await?;
        ensure!(
            ended.code == 0,
            "helm {step:?}: {}{}",
            ended.stdout,
            ended.stderr
        );
        // What else it says has the time and the namespace in it.
        if matches!(step[0], "get" | "list") {
            said += &ended.stdout;
        }
    }
    ensure!(said.contains("round: \"2\""), "no release: {said}");
    Ok(said)
}

fn helm_homes(folder: &Path, version: &str, way: &Way) -> Result<Vec<(&'static str, PathBuf)>> {
    let home = folder.join(format!("helm-{version}-{}", way.name));
    let names = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"];
    let homes = names.map(|name| (name, home.join(name)));
    for (_, folder) in &homes {
        std::fs::create_dir_all(folder)?;
    }
    Ok(homes.to_vec())
}
