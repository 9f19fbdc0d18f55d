//! One simulated agent, and what all of a fleet share.

use std::{sync::Arc, time::Duration};

use proto::{
    agent::entity::{AgentMeta, KubernetesVersion},
    frame::Frame,
};
use runtime::connect::{ConnectOptions, Target};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{forward::Backend, rpc::Head, stats::Stats};
use crate::script::Script;

/// What all agents share.
#[derive(Debug)]
pub(super) struct Fleet {
    /// Where agents connect, in turns.
    pub(super) targets: Vec<Target>,
    pub(super) script: Script,
    /// What answers instead of the script.
    pub(super) backend: Option<Backend>,
    pub(super) descriptor: Frame,
    pub(super) tunnels: usize,
    pub(super) stats: Stats,
    /// Agents that may dial at the same time.
    pub(super) dialling: Semaphore,
    /// Agents that may begin to dial in a second.
    pub(super) ramp: f64,
    /// Whether tunnels of a new connection open without their backoff.
    pub(super) eager: bool,
    /// Whether failed connections are followed by others at once.
    pub(super) impatient: bool,
    /// How long a connection lives on average before the agent drops it, once all were ready.
    pub(super) lifetime: Option<Duration>,
    /// All were ready.
    pub(super) settled: CancellationToken,
    /// Number of the round in which all agents connect anew.
    pub(super) round: watch::Sender<u64>,
}

/// One agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) number: usize,
    pub(super) fleet: Arc<Fleet>,
    pub(super) head: Head,
    pub(super) options: ConnectOptions,
    pub(super) pod_id: i64,
}

impl Agent {
    /// Where the attempt of this number goes.
    pub(super) fn target(&self, attempt: usize) -> &Target {
        let targets = &self.fleet.targets;
        &targets[(self.number + attempt) % targets.len()]
    }

    /// How it describes itself.
    pub(super) fn meta(&self) -> AgentMeta {
        AgentMeta {
            version: super::VERSION.to_owned(),
            commit_id: super::COMMIT.to_owned(),
            pod_namespace: "loadtest".to_owned(),
            pod_name: format!("loadtest-{}", self.number),
            kubernetes_version: Some(KubernetesVersion {
                major: "1".to_owned(),
                minor: "33".to_owned(),
                git_version: "v1.33.0".to_owned(),
                platform: "linux/amd64".to_owned(),
            }),
        }
    }
}
