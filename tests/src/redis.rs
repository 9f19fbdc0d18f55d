//! A redis-server of the test's own.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::{parts, ports, process::Process, wait::until_accepts};

/// A running redis-server that keeps nothing on disk.
#[derive(Debug)]
pub struct Redis {
    /// The process itself.
    pub process: Process,
    port: u16,
}

impl Redis {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When there is no redis-server, or it does not listen.
    pub async fn start(folder: &Path) -> Result<Self> {
        Self::on(ports::free(), folder).await
    }

    /// Starts one, empty, on this port: after another was killed, say.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn on(port: u16, folder: &Path) -> Result<Self> {
        let program = parts::program("redis-server").context("no redis-server")?;
        let number = port.to_string();
        let mut command = Command::new(program);
        command.args(["--port", &number, "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "no"]).current_dir(folder);
        let process = Process::spawn(&format!("redis-{port}"), &mut command, folder)?;
        let listens = until_accepts(port, Duration::from_secs(10)).await;
        listens.with_context(|| process.tail())?;
        Ok(Self { process, port })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}
