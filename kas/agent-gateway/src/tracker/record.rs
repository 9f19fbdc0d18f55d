//! The agent processes of a replica as JSON, which all replicas read, and the list of all of them.

use std::collections::HashMap;

use cluster_state::{AgentId, FOREIGN_REPLICA, Presence, PresenceEntry, ReplicaId};
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
    /// Of a process that is not connected to the replica any more: until when it counts as connected all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kubernetes {
    major: String,
    minor: String,
    git_version: String,
    platform: String,
}

/// An agent's processes, as a line of JSON.
pub(super) fn encode(instances: &[&Instance]) -> String {
    let records: Vec<_> = instances.iter().map(|it| InstanceRecord::of(it)).collect();
    serde_json::to_string(&records).expect("strings and numbers are JSON")
}

/// The processes in one presence that are connected to its replica.
pub(super) fn infos(agent: AgentId, presence: &Presence) -> Vec<ConnectedAgentInfo> {
    let records = serde_json::from_str::<Vec<InstanceRecord>>(&presence.text).unwrap_or_default();
    let connected = records.into_iter().filter(|it| it.until.is_none());
    connected.map(|it| it.info(agent, presence.group)).collect()
}

/// A connected process, and the replicas that it is connected to.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectedProcess {
    /// The process.
    pub info: ConnectedAgentInfo,
    /// The replicas, in the order of their ids.
    pub replicas: Vec<ReplicaId>,
}

/// The processes that all replicas have published and that are connected, each once, in the order of their agents.
#[must_use]
pub fn processes(entries: &[PresenceEntry]) -> Vec<ConnectedProcess> {
    let now = Timestamp::now();
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
            let known = all.entry(key).or_insert_with(|| Published {
                project: entry.presence.group,
                records: Vec::new(),
                replicas: Vec::new(),
            });
            if one.is_connected(now) {
                known.replicas.push(entry.replica.clone());
            }
            known.records.push(one);
        }
    }
    let found = all.into_iter().filter_map(|((agent, _), mut it)| {
        it.replicas.sort_unstable();
        it.replicas.dedup();
        // Replicas of ours publish for the others too.
        if it.replicas.len() > 1 {
            it.replicas.retain(|it| it.to_string() != FOREIGN_REPLICA);
        }
        Some(ConnectedProcess {
            info: join(it.records, now)?.info(agent, it.project),
            replicas: it.replicas,
        })
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|it| (it.info.agent_id, it.info.connection_id));
    found
}

/// A process, as it was published by one replica or several.
struct Published {
    project: i64,
    records: Vec<InstanceRecord>,
    /// Those that it is connected to.
    replicas: Vec<ReplicaId>,
}

/// The connected processes of one replica.
pub(super) fn own(
    agent: AgentId,
    project: i64,
    instances: &[Instance],
) -> impl Iterator<Item = ConnectedAgentInfo> {
    let now = Timestamp::now();
    let listed = instances.iter().filter(|it| !it.origin.is_refused());
    let records = listed.map(InstanceRecord::of);
    let connected = records.filter(move |it| it.is_connected(now));
    connected.map(move |it| it.info(agent, project))
}

/// What all replicas know of one process; `None` if it is connected to none of them.
fn join(mut records: Vec<InstanceRecord>, now: Timestamp) -> Option<InstanceRecord> {
    // One that is connected, and of those one that has registered, carries most.
    records.sort_by_key(|it| (!it.is_connected(now), !it.registered, it.at));
    let mut records = records.into_iter();
    let mut best = records.next().filter(|it| it.is_connected(now))?;
    let mut others: Vec<_> = records.collect();
    for other in &others {
        if best.kubernetes.is_none() {
            best.kubernetes.clone_from(&other.kubernetes);
        }
        if other.is_connected(now) {
            best.at = best.at.min(other.at);
        }
    }
    // Where it was before it came to where it is now, without a gap: a stream that is opened again through a load
    // balancer may lead to another replica each time.
    others.sort_by_key(|it| std::cmp::Reverse(it.at));
    while let Some(before) = others
        .iter()
        .find(|it| it.at < best.at && it.until.is_some_and(|until| until >= best.at))
    {
        best.at = before.at;
    }
    Some(best)
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
            until: instance.until,
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

    fn is_connected(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
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
