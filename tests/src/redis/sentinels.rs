//! A master, a replica of it, and three sentinels that decide which is which.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{FORM, MEMORY_ONLY, Redis, SYNC_AT_ONCE};
use crate::{ports, wait::until};

/// What the sentinels call it.
pub(super) const MASTER: &str = "mm";

/// Running servers and sentinels.
#[derive(Debug)]
pub struct Sentinels {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl Sentinels {
    /// Starts them and waits until they know each other.
    ///
    /// # Errors
    /// When they do not start or do not find each other.
    pub async fn start(folder: &Path) -> Result<Self> {
        let options = [&MEMORY_ONLY[..], &SYNC_AT_ONCE].concat();
        let master = Redis::run(&[], &options, ports::free(), folder).await?;
        let of_master = ["--replicaof", "127.0.0.1", &master.port().to_string()];
        let options = [&options[..], &of_master].concat();
        let replica = Redis::run(&[], &options, ports::free(), folder).await?;
        until("a replica that follows", FORM, async || {
            let state = replica.cli(&["info", "replication"]).await.ok()?;
            state.contains("master_link_status:up").then_some(())
        })
        .await?;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(sentinel(master.port(), folder).await?);
        }
        for sentinel in &sentinels {
            until("sentinels that know each other", FORM, async || {
                knows_all(sentinel).await.then_some(())
            })
            .await?;
        }
        Ok(Self {
            servers: vec![master, replica],
            sentinels,
        })
    }

    /// The sentinels' ports.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(Redis::port).collect()
    }

    /// Kills the master and waits until the sentinels name another; gives how long that took.
    ///
    /// # Errors
    /// When they do not.
    pub async fn fail_over(&mut self) -> Result<Duration> {
        let port = self.master().await?;
        let master = self.servers.iter_mut().find(|it| it.port() == port);
        let master = master.with_context(|| format!("no server on port {port}"))?;
        let killed = tokio::time::Instant::now();
        let process = &mut master.process;
        process.end_by("KILL", Duration::from_secs(60)).await?;
        until("another master", FORM, async || {
            (self.master().await.ok()? != port).then_some(())
        })
        .await?;
        Ok(killed.elapsed())
    }

    async fn master(&self) -> Result<u16> {
        let ask = ["sentinel", "get-master-addr-by-name", MASTER];
        let said = self.sentinels[0].cli(&ask).await?;
        let port = said.lines().nth(1).and_then(|port| port.parse().ok());
        port.with_context(|| said.clone())
    }
}

async fn sentinel(master: u16, folder: &Path) -> Result<Redis> {
    let port = ports::free();
    let file = folder.join(format!("sentinel-{port}.conf"));
    let text = format!(
        "sentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {MASTER} 1000\n\
         sentinel failover-timeout {MASTER} 3000\n"
    );
    std::fs::write(&file, text)?;
    let file = file.display().to_string();
    Redis::run(&[&file, "--sentinel"], &[], port, folder).await
}

async fn knows_all(sentinel: &Redis) -> bool {
    let known = sentinel.cli(&["sentinel", "master", MASTER]).await;
    let known = known.unwrap_or_default();
    let count = |name: &str| {
        let mut lines = known.lines().skip_while(|line| *line != name);
        lines.nth(1).map(str::to_owned)
    };
    count("num-slaves").as_deref() == Some("1")
        && count("num-other-sentinels").as_deref() == Some("2")
}
