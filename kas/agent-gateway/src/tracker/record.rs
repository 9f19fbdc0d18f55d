//! The agent processes of a replica as JSON, which all replicas read, and the list of all of them.

use std::collections::HashMap;

use cluster_state::{AgentId, PresenceEntry, ReplicaId};
use jiff::Timestamp;
use proto::agent::{
    agent_tracker::ConnectedAgentInfo,
    entity::{AgentMeta, KubernetesVersion},
};
use serde::{Deserialize, Serialize};

use super::instance::Instance;

/// A process as JSON. Unknown keys are ignored, so that replicas of different versions understand each other.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct InstanceRecord {
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
pub(super) fn encode(instances: &[Instance]) -> String {
    let records: Vec<_> = instances.iter().map(InstanceRecord::of).collect();
    serde_json::to_string(&records).expect("strings and numbers are JSON")
}

/// A connected process, and the replicas that it is connected to.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectedProcess {
    /// The process.
    pub info: ConnectedAgentInfo,
    /// The replicas, in the order of their ids.
    pub replicas: Vec<ReplicaId>,
}

/// The processes that all replicas have published, each once, in the order of their agents.
#[must_use]
pub fn processes(entries: &[PresenceEntry]) -> Vec<ConnectedProcess> {
    let mut all: HashMap<(AgentId, String), Published> = HashMap::new();
    for entry in entries {
        let records = match serde_json::from_str::<Vec<InstanceRecord>>(&entry.presence.text) {
            Ok(records) => records,
            Err(error) => {
                tracing::debug!(
                    replica = %entry.replica,
                    agent.id = entry.agent.0,
                    %error,
                    "could not decode a presence entry of another replica; ignoring it"
                );
                continue;
            }
        };
        for one in records {
            let key = (entry.agent, one.process());
            match all.get_mut(&key) {
                Some(known) => {
                    known.record.join(one);
                    known.replicas.push(entry.replica.clone());
                }
                None => {
                    let published = Published {
                        project: entry.presence.group,
                        record: one,
                        replicas: vec![entry.replica.clone()],
                    };
                    all.insert(key, published);
                }
            }
        }
    }
    let found = all.into_iter().map(|((agent, _), mut it)| {
        it.replicas.sort_unstable();
        it.replicas.dedup();
        ConnectedProcess {
            info: it.record.info(agent, it.project),
            replicas: it.replicas,
        }
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|it| (it.info.agent_id, it.info.connection_id));
    found
}

/// A process, as it was published by one replica or several.
struct Published {
    project: i64,
    record: InstanceRecord,
    replicas: Vec<ReplicaId>,
}

/// The processes of one replica.
pub(super) fn own(
    agent: AgentId,
    project: i64,
    instances: &[Instance],
) -> impl Iterator<Item = ConnectedAgentInfo> {
    let records = instances.iter().map(InstanceRecord::of);
    records.map(move |it| it.info(agent, project))
}

impl InstanceRecord {
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

    /// Identifies the process on whichever replica it is connected.
    fn process(&self) -> String {
        match self.pod.as_str() {
            "" => self.id.to_string(),
            pod => format!("{}/{pod}", self.namespace),
        }
    }

    /// Merges the record of the same process on another replica. A registered one carries more.
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
