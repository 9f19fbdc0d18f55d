//! Where a run has its files, and what it is told.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::programs;
use tokio::process::Command;

/// How long a run may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// A run of a few seconds with every kind of request.
pub(crate) const SMALL: &str = "\
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
      - {kind: exec, rate: 2, events: 3, every_ms: 20}
      - {kind: list, rate: 2, bytes: 9000, delay_ms: 50}
    faults:
      - {at: 1, do: delay, of: peers, ms: 20, for: 1}
objectives: {max_failed: 0, min_requests: 80}
";

/// A folder of its own.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("loadtest")
            .join(name);
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    pub(crate) fn command(&self, scenario: &str) -> Result<Command> {
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

    pub(crate) async fn run(&self, scenario: &str) -> Result<Output> {
        let output = self.command(scenario)?.output();
        Ok(tokio::time::timeout(LIMIT, output)
            .await
            .context("the run hangs")??)
    }

    pub(crate) fn result(&self) -> Result<Value> {
        let text = std::fs::read_to_string(self.0.join("out/result.json"))?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(crate) fn report(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.0.join("out/report.html"))?)
    }
}

/// All that a program said.
pub(crate) fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}
