//! Redis of the test's own: one server, or with sentinels, or a cluster.

mod cluster;
mod sentinels;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::process::Command;

pub use self::{cluster::Cluster, sentinels::Sentinels};
use crate::{parts, ports, process::Process};

/// How long servers may take to find each other.
const FORM: Duration = Duration::from_secs(60);
/// Lines of what redis-cli says that are told when it fails.
const LAST: usize = 20;
const MEMORY_ONLY: [&str; 4] = ["--save", "", "--appendonly", "no"];
/// Else a replica has nothing for its first five seconds, and cannot take over.
const SYNC_AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

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
        Self::run(&[], &MEMORY_ONLY, port, folder).await
    }

    async fn run(first: &[&str], options: &[&str], port: u16, folder: &Path) -> Result<Self> {
        let program = parts::program("redis-server").context("no redis-server")?;
        let mut command = Command::new(program);
        command.args(first).args(["--port", &port.to_string()]);
        command.args(["--bind", "127.0.0.1"]).args(options);
        command.current_dir(folder);
        let name = format!("redis-{port}");
        let process = Process::listening(&name, &mut command, port, folder).await?;
        Ok(Self { process, port })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What redis-cli says.
    ///
    /// # Errors
    /// When there is no redis-cli, or it fails.
    pub async fn cli(&self, args: &[&str]) -> Result<String> {
        let port = self.port.to_string();
        cli(&[&["-p", &port], args].concat()).await
    }
}

/// What replicas share.
#[derive(Debug)]
pub enum Store {
    /// One server.
    Single(Box<Redis>),
    /// A master with a replica, and sentinels.
    Sentinels(Sentinels),
    /// Masters with replicas, which share the keys.
    Cluster(Cluster),
}

impl Store {
    /// The only server there is.
    ///
    /// # Errors
    /// When there are several.
    pub fn single(&mut self) -> Result<&mut Redis> {
        match self {
            Self::Single(redis) => Ok(redis),
            Self::Sentinels(_) | Self::Cluster(_) => bail!("there are several servers"),
        }
    }

    /// A port of it.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Single(redis) => redis.port(),
            Self::Sentinels(sentinels) => sentinels.ports()[0],
            Self::Cluster(cluster) => cluster.ports()[0],
        }
    }

    /// kas's section `redis`; a single server is reached by the port `through`.
    #[must_use]
    pub fn configuration(&self, through: u16) -> Value {
        match self {
            Self::Single(_) => json!({"server": {"address": at(through)}}),
            Self::Sentinels(it) => json!({
                "sentinel": {"master_name": sentinels::MASTER, "addresses": addresses(&it.ports())},
            }),
            Self::Cluster(it) => json!({"cluster": {"addresses": addresses(&it.ports())}}),
        }
    }
}

fn addresses(ports: &[u16]) -> Vec<String> {
    ports.iter().copied().map(at).collect()
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

async fn cli(args: &[&str]) -> Result<String> {
    cli_within(FORM, args).await
}

async fn cli_within(limit: Duration, args: &[&str]) -> Result<String> {
    let program = parts::program("redis-cli").context("no redis-cli")?;
    let mut command = Command::new(program);
    let run = command.args(args).kill_on_drop(true).output();
    let output = tokio::time::timeout(limit, run).await;
    let output = output.with_context(|| format!("redis-cli {args:?} takes too long"))??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        // One that moves slots says a line or two of each.
        let lines: Vec<_> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST)..].join("\n");
        bail!("redis-cli {args:?}: {last}");
    }
    Ok(said)
}
