//! Three masters with a replica each, among which the keys are divided.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::{FORM, MEMORY_ONLY, Redis, SYNC_AT_ONCE, addresses, cli, cli_within};
use crate::{ports, wait::until};

const NODES: usize = 6;
/// How long slots may take to move: thousands of round trips, on a busy machine.
const MOVE: Duration = Duration::from_secs(300);
const OPTIONS: [&str; 4] = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts one and waits until it has formed.
    ///
    /// # Errors
    /// When it does not start or form.
    pub async fn start(folder: &Path) -> Result<Self> {
        let options = [&MEMORY_ONLY[..], &SYNC_AT_ONCE, &OPTIONS].concat();
        let mut nodes = Vec::new();
        for number in 0..NODES {
            // A node keeps a file of its own, whatever it is told about keys.
            let folder = folder.join(format!("redis-node-{number}"));
            std::fs::create_dir_all(&folder)?;
            let bus = ports::free().to_string();
            let options = [&options[..], &["--cluster-port", &bus]].concat();
            nodes.push(Redis::run(&[], &options, ports::free(), &folder).await?);
        }
        let cluster = Self { nodes };
        let mut create = vec!["--cluster", "create"];
        let addresses = addresses(&cluster.ports());
        create.extend(addresses.iter().map(String::as_str));
        cli(&[&create[..], &["--cluster-replicas", "1", "--cluster-yes"]].concat()).await?;
        for node in &cluster.nodes {
            cluster.formed(node).await?;
        }
        Ok(cluster)
    }

    /// The nodes' ports.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(Redis::port).collect()
    }

    /// Kills a master and waits until its replica has taken its place; gives how long that took.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn fail_over(&mut self) -> Result<Duration> {
        let masters = self.masters().await?;
        let (_, port) = masters.first().context("no master")?;
        let index = self.nodes.iter().position(|node| node.port() == *port);
        let mut dead = self.nodes.remove(index.context("a master that is ours")?);
        let killed = Instant::now();
        dead.process.end_by("KILL", Duration::from_secs(60)).await?;
        until("a replica that takes over", FORM, async || {
            let now = self.masters().await.ok()?;
            let replaced = now.len() == masters.len() && now.iter().all(|(_, it)| it != port);
            replaced.then_some(())
        })
        .await?;
        for node in &self.nodes {
            self.formed(node).await?;
        }
        Ok(killed.elapsed())
    }

    /// Moves a third of a master's slots, keys and all, to another. Waits before until all nodes say the same of who
    /// has which: right after a failover some do not, and nothing can be moved then.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn move_slots(&self) -> Result<()> {
        let (from, to, address) = until("nodes that agree", FORM, async || {
            let masters = self.masters().await.ok()?;
            let [(from, port), (to, _), ..] = &masters[..] else {
                return None;
            };
            let address = super::at(*port);
            cli(&["--cluster", "check", &address]).await.ok()?;
            Some((from.clone(), to.clone(), address))
        })
        .await?;
        let command = ["--cluster", "reshard", &address, "--cluster-from", &from];
        let amount = ["--cluster-to", &to, "--cluster-slots", "1800"];
        let args = [&command[..], &amount, &["--cluster-yes"]].concat();
        cli_within(MOVE, &args).await.map(drop)
    }

    /// Ids and ports of masters that live.
    async fn masters(&self) -> Result<Vec<(String, u16)>> {
        let node = self.nodes.last().context("no node")?;
        let said = node.cli(&["cluster", "nodes"]).await?;
        let masters = said.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
            let (_, port) = address.split_once('@')?.0.rsplit_once(':')?;
            let lives = flags.contains("master") && !flags.contains("fail");
            Some((id.to_owned(), port.parse().ok()?)).filter(|_| lives)
        });
        Ok(masters.collect())
    }

    async fn formed(&self, node: &Redis) -> Result<()> {
        until("a cluster that has formed", FORM, async || {
            let replication = node.cli(&["info", "replication"]).await.ok()?;
            let state = node.cli(&["cluster", "info"]).await.ok()?;
            let follows = replication.contains("role:master")
                || replication.contains("master_link_status:up");
            (follows && state.contains("cluster_state:ok")).then_some(())
        })
        .await
    }
}
