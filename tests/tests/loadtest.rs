//! `loadtest run` as a program: its verdict, its report, bad input, and what Ctrl-C leaves behind.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{
    kas::{Kas, Options},
    parts::{self, Part},
    process::Process,
    programs,
    wait::until,
};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(90);

const SMALL: &str = "\
name: small
topology: {replicas: 2, balancer: true}
fleet: {agents: 6}
phases:
  - name: all kinds
    seconds: 4
    traffic:
      - {kind: short, rate: 20}
      - {kind: watch, rate: 2, events: 3, every_ms: 50}
      - {kind: upload, rate: 2, bytes: 20000}
    faults:
      - {at: 1, do: delay, of: peers, ms: 20, for: 1}
objectives: {max_failed: 0, min_requests: 80}
";

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("loadtest")
            .join(name);
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    fn command(&self, scenario: &str) -> Result<Command> {
        let file = self.0.join("scenario.yaml");
        std::fs::write(&file, scenario)?;
        let mut command = Command::new(programs::loadtest()?);
        command
            .arg("run")
            .arg(file)
            .arg("--kas")
            .arg(programs::kas()?);
        command
            .arg("--output")
            .arg(self.0.join("out"))
            .kill_on_drop(true);
        Ok(command)
    }

    async fn run(&self, scenario: &str) -> Result<Output> {
        let output = self.command(scenario)?.output();
        Ok(tokio::time::timeout(LIMIT, output)
            .await
            .context("the run hangs")??)
    }

    fn result(&self) -> Result<Value> {
        let text = std::fs::read_to_string(self.0.join("out/result.json"))?;
        Ok(serde_json::from_str(&text)?)
    }

    fn report(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.0.join("out/report.html"))?)
    }
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

#[tokio::test]
async fn a_run_that_reaches_its_objectives_passes_and_shows_all() -> Result<()> {
    if parts::skipped(
        "a_run_that_reaches_its_objectives_passes_and_shows_all",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let place = Place::new("passes")?;

    let output = place.run(SMALL).await?;

    assert!(output.status.success(), "{}", text(&output));
    let (result, report) = (place.result()?, place.report()?);
    assert_eq!(result["figures"]["failed"], 0.0, "{}", text(&output));
    for part in [
        "Latency of short requests",
        "Memory for each agent",
        "CPU for each request",
        "Agents owned",
        "delay peers",
    ] {
        assert!(report.contains(part), "{part} is not in the report");
    }
    let samples = std::fs::read_to_string(place.0.join("out/samples.jsonl"))?;
    let last: Value = serde_json::from_str(samples.lines().last().context("no samples")?)?;
    for process in ["replica 1", "replica 2", "redis", "fleet", "loadtest"] {
        assert!(
            last["processes"][process]["resident_kib"].as_u64() > Some(0),
            "{process}: {last}"
        );
    }
    assert!(last["redis"]["commands"].as_u64() > Some(0), "{last}");
    Ok(())
}

#[tokio::test]
async fn a_slowed_target_misses_its_objectives_and_fails() -> Result<()> {
    let place = Place::new("slow")?;
    let slow = "\
name: slow
phases:
  - name: slowed
    seconds: 3
    traffic: [{kind: short, rate: 20}]
    faults: [{at: 0, do: delay, of: users, ms: 300, for: 10}]
objectives: {max_failed: 0, p50_ms: 200}
";

    let output = place.run(slow).await?;

    assert!(!output.status.success());
    let said = text(&output);
    assert!(
        said.contains("MISSED") && said.contains("p50_ms ≤ 200"),
        "{said}"
    );
    assert!(place.report()?.contains("missed"));
    Ok(())
}

#[tokio::test]
async fn a_typo_is_named_before_anything_is_started() -> Result<()> {
    let place = Place::new("typo")?;

    let output = place.run(&SMALL.replace("agents: 6", "agnets: 6")).await?;

    let said = text(&output);
    assert!(
        !output.status.success() && !place.0.join("out").exists(),
        "{said}"
    );
    assert!(
        said.contains("scenario.yaml:3:9: unknown key `agnets`, did you mean `agents`?"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn too_many_agents_for_the_open_files_are_refused_beforehand() -> Result<()> {
    let place = Place::new("files")?;
    let mut command = place.command(SMALL)?;
    command.args(["--agents", "100000000"]);

    let output = tokio::time::timeout(LIMIT, command.output()).await??;

    let said = text(&output);
    assert!(
        !output.status.success() && !place.0.join("out").exists(),
        "{said}"
    );
    assert!(
        said.contains("hard limit is") && said.contains("ulimit -Hn"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn refused_tokens_are_said_at_once() -> Result<()> {
    let place = Place::new("refused")?;
    let kas = Kas::start(Options::default(), &place.0).await?;
    let (tokens, bearer) = (place.0.join("tokens"), place.0.join("bearer"));
    std::fs::write(&tokens, "glagent-nobody")?;
    std::fs::write(&bearer, "pat:1:nobody")?;
    let attach = format!(
        "name: refused\ntopology:\n  attach:\n    kas_address: ws://127.0.0.1:{}/\n    url: http://127.0.0.1:{}/k8s-proxy\n    token_file: {}\n    bearer_file: {}\nphases: [{{name: none, seconds: 1}}]\n",
        kas.agents,
        kas.users,
        tokens.display(),
        bearer.display()
    );

    let output = place.run(&attach).await?;

    let said = text(&output);
    assert!(
        !output.status.success() && said.contains("refuses the agents' tokens"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn an_interrupted_run_ends_what_it_started_and_writes_its_report() -> Result<()> {
    if parts::skipped(
        "an_interrupted_run_ends_what_it_started_and_writes_its_report",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let place = Place::new("interrupted")?;
    let mut command = place.command(&SMALL.replace("seconds: 4", "seconds: 600"))?;
    let mut run = Process::spawn("run", &mut command, &place.0)?;
    let id = run.id().context("it runs")?;
    let samples = place.0.join("out/samples.jsonl");
    until("requests are answered", LIMIT, async || {
        let samples = std::fs::read_to_string(&samples).unwrap_or_default();
        let last: Value = serde_json::from_str(samples.lines().last()?).ok()?;
        (last["answered"].as_u64()? > 10).then_some(())
    })
    .await?;
    let children = children(id);

    let status = run.end_by("INT", LIMIT).await?;

    assert!(
        children.len() >= 4,
        "two replicas, Redis and the fleet: {children:?}"
    );
    assert!(!status.success());
    let left: Vec<_> = children
        .iter()
        .filter(|id| Path::new(&format!("/proc/{id}")).exists())
        .collect();
    assert!(left.is_empty(), "still there: {left:?}");
    assert!(place.report()?.contains("ended by SIGINT"));
    assert!(place.result()?["samples"].as_array().map_or(0, Vec::len) > 0);
    Ok(())
}

/// Process ids of those that a process started.
fn children(id: u32) -> Vec<String> {
    let list = std::fs::read_dir(format!("/proc/{id}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let of = |task: std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("children")).unwrap_or_default()
    };
    list.flat_map(|task| {
        of(task)
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    })
    .collect()
}
