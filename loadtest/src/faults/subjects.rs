//! What faults can happen to: links and processes.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use tokio::sync::Mutex;

use super::ProcessTable;
use crate::{
    chaos::Chaos,
    scenario::Subject,
    topology::{Replica, Store},
};

/// Links and processes. Those that we started can be started again.
#[derive(Debug, Default)]
pub(crate) struct FaultSubjects {
    pub(crate) links: Links,
    pub(crate) processes: Arc<ProcessTable>,
    pub(crate) replicas: Vec<Mutex<Replica>>,
    pub(crate) redis: Option<Mutex<Option<Store>>>,
    pub(crate) redis_server: PathBuf,
    pub(crate) logs: PathBuf,
}

/// Links that can be disturbed.
#[derive(Debug, Default)]
pub(crate) struct Links {
    pub(crate) agents: Option<Chaos>,
    pub(crate) users: Option<Chaos>,
    pub(crate) redis: Vec<Chaos>,
    pub(crate) peers: Vec<Chaos>,
}

impl Links {
    /// Those that a fault happens to.
    pub(crate) fn of(&self, subject: Subject) -> Vec<&Chaos> {
        match subject {
            Subject::Agents => self.agents.iter().collect(),
            Subject::Users => self.users.iter().collect(),
            Subject::Redis => self.redis.iter().collect(),
            Subject::Peers => self.peers.iter().collect(),
            Subject::Replica(_) => Vec::new(),
        }
    }
}

impl FaultSubjects {
    /// The replica of this number, from 1.
    pub(super) fn replica(&self, number: usize) -> anyhow::Result<&Mutex<Replica>> {
        let index = number.checked_sub(1);
        let replica = index.and_then(|index| self.replicas.get(index));
        replica.with_context(|| format!("there is no replica {number}"))
    }

    /// Ends what we started.
    pub(crate) async fn end(self) {
        let replicas = self.replicas.into_iter().map(|it| it.into_inner().end());
        futures_util::future::join_all(replicas).await;
        if let Some(redis) = self.redis.and_then(Mutex::into_inner) {
            redis.end().await;
        }
    }
}
