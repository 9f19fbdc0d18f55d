//! Replicas, and their links with each other.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{chaos::Mode, parts::say, wait::until};
use tokio::time::sleep;

use super::Stage;

/// How long a replica may take to leave: the grace period of its requests and a little more.
const LEAVE: Duration = Duration::from_secs(45);
/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(5);

impl Stage<'_> {
    pub(super) async fn kill_replica(&mut self, number: usize) -> Result<()> {
        let killed = &mut self.replicas.members[number].process;
        killed.end_by("KILL", GONE).await?;
        sleep(Duration::from_secs(3)).await;
        self.replicas.restart(number).await
    }

    pub(super) async fn stop_replica(&mut self, number: usize) -> Result<()> {
        let slow = async || (self.fleet.slow() > 0).then_some(());
        until("a request in progress", LEAVE, slow).await?;
        self.leave(number).await?;
        self.replicas.restart(number).await
    }

    pub(super) async fn restart_all(&mut self) -> Result<()> {
        for number in 0..self.replicas.members.len() {
            self.stop_replica(number).await?;
            sleep(Duration::from_secs(2)).await;
        }
        Ok(())
    }

    pub(super) async fn freeze_replica(&mut self, number: usize) -> Result<()> {
        let process = &self.replicas.members[number].process;
        process.signal("STOP").await?;
        sleep(self.lasts).await;
        process.signal("CONT").await
    }

    pub(super) async fn part_from_peers(&mut self, number: usize) {
        let link = &self.replicas.members[number].from_peers;
        link.set(Mode::BlackHole);
        sleep(self.lasts).await;
        link.cut();
        link.set(Mode::Pass);
    }

    /// Its time of day steps forward by an hour while it runs, then back.
    pub(super) async fn step_clock(&mut self, number: usize) -> Result<()> {
        let Some(library) = faketime() else {
            say("SKIPPED: a clock that steps needs libfaketime.so.1 (see tests/setup/install)");
            self.notes
                .push("No clock stepped: libfaketime.so.1 is not installed.".to_owned());
            return Ok(());
        };
        let clock = self.folder.join("clock");
        let set = |offset: &str| std::fs::write(&clock, offset);
        set("+0")?;
        let (library, file) = (library.display().to_string(), clock.display().to_string());
        let env = [
            ("LD_PRELOAD", &*library),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_CACHE_DURATION", "1"),
            // Intervals are measured by the monotonic clock, which never steps.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        self.leave(number).await?;
        self.replicas.restart_with(number, &env).await?;
        set("+3600")?;
        sleep(self.lasts).await;
        set("+0")?;
        sleep(Duration::from_secs(2)).await;
        self.leave(number).await?;
        self.replicas.restart(number).await
    }

    /// SIGTERM, and the end of the process. It says when it could not finish what was in progress; whether
    /// that did harm is for the users to say.
    async fn leave(&mut self, number: usize) -> Result<()> {
        let process = &mut self.replicas.members[number].process;
        let status = process.end_by("TERM", LEAVE).await;
        let status = status.context("it did not leave")?;
        if !status.success() {
            let output = process.output();
            let why = output.lines().last().unwrap_or_default();
            ensure!(status.code().is_some(), "{status}\n{}", process.tail());
            self.notes
                .push(format!("A replica left with {status}: {why}"));
        }
        Ok(())
    }
}

/// Where Debian's package puts the library, on any machine.
fn faketime() -> Option<PathBuf> {
    let machines = std::fs::read_dir("/usr/lib").ok()?.flatten();
    machines
        .map(|machine| machine.path().join("faketime/libfaketime.so.1"))
        .find(|library| library.is_file())
}
