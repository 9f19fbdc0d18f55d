//! Runs from their start to their verdict.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{
    parts::{self, Part},
    process::Process,
    programs,
    wait::until,
};

use crate::place::{LIMIT, Place, SMALL, text};

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
        "Agents that each replica owns",
        "delay peers",
    ] {
        assert!(report.contains(part), "{part} is not in the report");
    }
    let samples = std::fs::read_to_string(place.0.join("out/samples.jsonl"))?;
    let samples: Vec<Value> = samples
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    for process in ["replica 1", "replica 2", "redis", "fleet", "loadtest"] {
        one_has(&samples, process, |it| {
            it["processes"][process]["resident_kib"].as_u64() > Some(0)
        });
    }
    one_has(&samples, "Redis' commands", |it| {
        it["redis"]["commands"].as_u64() > Some(0)
    });
    Ok(())
}

/// On a busy machine a sample may lack what did not answer within a second; not each does.
fn one_has(samples: &[Value], what: &str, has: impl Fn(&Value) -> bool) {
    assert!(
        samples.iter().any(has),
        "no sample has {what}: {samples:#?}"
    );
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
async fn a_slowed_target_fails_steady() -> Result<()> {
    if parts::skipped("a_slowed_target_fails_steady", &[Part::Redis]) {
        return Ok(());
    }
    let place = Place::new("slow-steady")?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/steady.yaml");
    let last = "      - {kind: watch, rate: 5}\n";
    let slowed = "    faults:\n      - {at: 1, do: freeze, of: replica-1, for: 4}\n";
    let steady = std::fs::read_to_string(file)?;
    let slow = steady.replace(last, &format!("{last}{slowed}"));
    assert_ne!(slow, steady, "the fault has its place");

    let output = place.run(&slow).await?;

    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("MISSED   longest_stall_ms ≤ 1500"), "{said}");
    Ok(())
}

#[tokio::test]
async fn agentk_processes_answer_among_simulated_agents() -> Result<()> {
    if parts::skipped(
        "agentk_processes_answer_among_simulated_agents",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let place = Place::new("real")?;
    let fleet = format!(
        "fleet: {{agents: 4, real: 2, agentk: '{}'}}",
        programs::agentk()?.display()
    );

    let output = place
        .run(&SMALL.replace("fleet: {agents: 6}", &fleet))
        .await?;

    assert!(output.status.success(), "{}", text(&output));
    let result = place.result()?;
    let samples = result["samples"].as_array().context("no samples")?;
    one_has(samples, "both ready", |it| {
        it["fleet"]["real_ready"] == 2 && it["fleet"]["registered"] == 2
    });
    for agentk in ["agentk 1", "agentk 2"] {
        one_has(samples, agentk, |it| {
            it["processes"][agentk]["resident_kib"].as_u64() > Some(0)
        });
    }
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
