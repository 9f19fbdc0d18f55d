//! `kas up` in a folder of its own.

use std::{ffi::OsString, path::Path, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{kubectl::Kubectl, process::Process, programs};

/// All of it starts within a second or two.
const READY: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(60);

/// A running `kas up`.
#[derive(Debug)]
pub struct Up {
    /// The process itself.
    pub process: Process,
    folder: TempDir,
}

impl Up {
    /// Starts it on free ports, with these arguments besides, and waits for its `ready` line.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub async fn start(args: &[&str]) -> Result<Self> {
        let mut up = Self::begin(args)?;
        up.ready().await?;
        Ok(up)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(args: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(programs::kas()?);
        command
            .args(self::args(folder.path()))
            .args(args)
            // Whatever it names is left alone.
            .env("KUBECONFIG", folder.path().join("somebodys"));
        let process = Process::spawn("kas-up", &mut command, folder.path())?;
        Ok(Self { process, folder })
    }

    /// Waits for its `ready` line.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub async fn ready(&mut self) -> Result<String> {
        self.process.wait_for("ready: kubectl", READY).await
    }

    /// Starts a second one on the same data, and gives what it says.
    ///
    /// # Errors
    /// When it goes on for long, or ends with success.
    pub async fn second(&self) -> Result<String> {
        let mut command = Command::new(programs::kas()?);
        command.args(self::args(self.folder.path()));
        let mut second = Process::spawn("kas-up-2", &mut command, self.folder.path())?;
        let status = second.ended(END).await?;
        anyhow::ensure!(!status.success(), "{}", second.tail());
        Ok(second.output())
    }

    /// Its kubectl.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.folder.path().join("kas-data/kubeconfig"))
    }

    /// Where its operators' port is.
    ///
    /// # Errors
    /// When it has not said so.
    pub fn admin(&self) -> Result<String> {
        let output = self.process.output();
        let line = output
            .lines()
            .find_map(|line| line.split_once("in a browser: "));
        let (_, url) = line.with_context(|| output.clone())?;
        Ok(url.trim_end_matches('/').to_owned())
    }

    /// A folder for the test's files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Presses Ctrl-C and expects a clean end.
    ///
    /// # Errors
    /// When it does not end, or not with success.
    pub async fn interrupt(mut self) -> Result<()> {
        let status = self.process.end_by("INT", END).await?;
        anyhow::ensure!(status.success(), "{status}\n{}", self.process.tail());
        Ok(())
    }
}

fn args(folder: &Path) -> Vec<OsString> {
    let words = ["up", "--agent-port", "0", "--api-port", "0", "--data-dir"];
    let words = words.map(OsString::from).into_iter();
    words.chain([folder.join("kas-data").into()]).collect()
}
