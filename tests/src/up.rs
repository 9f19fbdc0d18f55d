//! `kas up` in a folder of its own.

use std::{path::Path, time::Duration};

use anyhow::Result;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{kubectl::Kubectl, process::Process, programs};

/// All of it starts within a second or two.
const READY: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);

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
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(programs::kas()?);
        command
            .args(["up", "--agent-port", "0", "--api-port", "0", "--data-dir"])
            .arg(folder.path().join("kas-data"))
            .args(args)
            // Whatever it names is left alone.
            .env("KUBECONFIG", folder.path().join("somebodys"));
        let mut process = Process::spawn("kas-up", &mut command, folder.path())?;
        process.wait_for("ready", READY).await?;
        Ok(Self { process, folder })
    }

    /// Its kubectl.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.folder.path().join("kas-data/kubeconfig"))
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
