//! How processes are written where all replicas read, and what their telling
//! amounts to.

use std::collections::HashMap;

use cluster_state::{AgentId, Told};
use jiff::Timestamp;
use proto::agent::{
    agent_tracker::ConnectedAgentInfo,
    entity::{AgentMeta, KubernetesVersion},
};
use serde::{Deserialize, Serialize};

use super::instance::Instance;

/// A process as it is written. Keys that are not known are ignored, so that
/// replicas of different versions understand each other.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Written {
    id: i64,
    at: Timestamp,
    #[serde(default)]
    registered: bool,
    #[serde(default)]
    version: String,
    #[serde(default)]
    commit: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    pod: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kubernetes {
    major: String,
    minor: String,
    git_version: String,
    platform: String,
}

/// An agent's processes, as a line of JSON.
pub(super) fn write(instances: &[Instance]) -> String {
    let written: Vec<_> = instances.iter().map(Written::of).collect();
    serde_json::to_string(&written).expect("strings and numbers are JSON")
}

/// What all replicas tell, each process once.
pub(super) fn merge(told: &[Told]) -> Vec<ConnectedAgentInfo> {
    let mut all: HashMap<(AgentId, String), (i64, Written)> = HashMap::new();
    for told in told {
        let Ok(written) = serde_json::from_str::<Vec<Written>>(&told.presence.text) else {
            tracing::debug!(replica = %told.replica, agent = %told.agent, "a presence that is not understood");
            continue;
        };
        for one in written {
            let key = (told.agent, one.process());
            match all.get_mut(&key) {
                Some((_, known)) => known.join(one),
                None => {
                    all.insert(key, (told.presence.group, one));
                }
            }
        }
    }
    let infos = all
        .into_iter()
        .map(|((agent, _), (project, it))| it.info(agent, project));
    let mut infos: Vec<_> = infos.collect();
    infos.sort_by_key(|it| (it.agent_id, it.connection_id));
    infos
}

impl Written {
    fn of(instance: &Instance) -> Self {
        let AgentMeta {
            version,
            commit_id,
            pod_namespace,
            pod_name,
            kubernetes_version,
        } = instance.meta.clone();
        Self {
            id: instance.connection_id,
            at: instance.connected_at,
            registered: instance.registered,
            version,
            commit: commit_id,
            namespace: pod_namespace,
            pod: pod_name,
            kubernetes: kubernetes_version.map(|it| Kubernetes {
                major: it.major,
                minor: it.minor,
                git_version: it.git_version,
                platform: it.platform,
            }),
        }
    }

    /// What is the same wherever a process is connected.
    fn process(&self) -> String {
        match self.pod.as_str() {
            "" => self.id.to_string(),
            pod => format!("{}/{pod}", self.namespace),
        }
    }

    /// The same process, on another replica. Who registered says more.
    fn join(&mut self, other: Self) {
        let first = self.at.min(other.at);
        if other.registered && !self.registered {
            *self = other;
        }
        self.at = first;
    }

    fn info(self, agent: AgentId, project: i64) -> ConnectedAgentInfo {
        ConnectedAgentInfo {
            agent_meta: Some(AgentMeta {
                version: self.version,
                commit_id: self.commit,
                pod_namespace: self.namespace,
                pod_name: self.pod,
                kubernetes_version: self.kubernetes.map(|it| KubernetesVersion {
                    major: it.major,
                    minor: it.minor,
                    git_version: it.git_version,
                    platform: it.platform,
                }),
            }),
            connected_at: Some(prost_types::Timestamp {
                seconds: self.at.as_second(),
                nanos: self.at.subsec_nanosecond(),
            }),
            connection_id: self.id,
            agent_id: agent.0,
            project_id: project,
        }
    }
}
