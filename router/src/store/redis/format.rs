//! What is written where in Redis.
//!
//! | key | type | content |
//! |---|---|---|
//! | `<prefix>:kas:replicas` | hash | replica id → its lease, as JSON |
//! | `<prefix>:kas:agent:{<agent id>}` | hash | replica id → its URL, for each owner; `last_seen` → seconds since 1970 |
//! | `<prefix>:kas:presence:{<replica id>}` | sorted set | see [`super::presence`] |
//! | `<prefix>:kas:repository:{<project id>}` | hash | replica id → `1`, for each that serves agents of it; `head` → what the one on duty found |
//! | `<prefix>:kas:configured:{<agent id>}` | string | the commit whose configuration GitLab was told |

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    id::{AgentId, ReplicaId},
    store::{Lease, Record, ReplicaState},
    table::Owner,
};

/// The field of an agent's hash that names no replica.
pub(super) const LAST_SEEN: &str = "last_seen";

/// The field of a repository's hash that names no replica.
pub(super) const HEAD: &str = "head";

/// Names of keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub(super) replicas: String,
    agent: String,
    presence: String,
    repository: String,
    configured: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            replicas: format!("{prefix}:kas:replicas"),
            agent: format!("{prefix}:kas:agent:"),
            presence: format!("{prefix}:kas:presence:"),
            repository: format!("{prefix}:kas:repository:"),
            configured: format!("{prefix}:kas:configured:"),
        }
    }

    /// The key of what is posted about a project's repository.
    pub(super) fn repository(&self, project: i64) -> String {
        format!("{}{{{project}}}", self.repository)
    }

    /// About which project's repository a key is.
    pub(super) fn project_of(&self, key: &str) -> Option<i64> {
        let id = key.strip_prefix(&self.repository)?;
        id.strip_prefix('{')?.strip_suffix('}')?.parse().ok()
    }

    /// The key of what GitLab was told of an agent's configuration.
    pub(super) fn configured(&self, agent: AgentId) -> String {
        format!("{}{{{agent}}}", self.configured)
    }

    /// The key of an agent's record; the braces choose its slot in a cluster.
    pub(super) fn agent(&self, agent: AgentId) -> String {
        format!("{}{{{agent}}}", self.agent)
    }

    /// The key of what a replica tells of its agents.
    pub(super) fn presence(&self, replica: &ReplicaId) -> String {
        format!("{}{{{replica}}}", self.presence)
    }

    /// Whose record a key is.
    pub(super) fn agent_of(&self, key: &str) -> Option<AgentId> {
        let id = key.strip_prefix(&self.agent)?;
        let id = id.strip_prefix('{')?.strip_suffix('}')?;
        id.parse().ok().map(AgentId)
    }
}

#[derive(Serialize, Deserialize)]
struct Written {
    url: String,
    state: State,
    version: String,
    beat: u64,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum State {
    Serving,
    Draining,
}

/// A lease as it is written.
pub(super) fn write_lease(lease: &Lease) -> String {
    let written = Written {
        url: lease.url.clone(),
        state: match lease.state {
            ReplicaState::Serving => State::Serving,
            ReplicaState::Draining => State::Draining,
        },
        version: lease.version.clone(),
        beat: lease.beat,
    };
    serde_json::to_string(&written).expect("strings and numbers are JSON")
}

/// The leases among the fields of the replicas' hash; what is none is left out.
pub(super) fn read_leases(fields: HashMap<String, String>) -> Vec<Lease> {
    let lease = |(id, text): (String, String)| {
        let written: Written = serde_json::from_str(&text).ok()?;
        Some(Lease {
            replica: ReplicaId::new(&id),
            url: written.url,
            state: match written.state {
                State::Serving => ReplicaState::Serving,
                State::Draining => ReplicaState::Draining,
            },
            version: written.version,
            beat: written.beat,
        })
    };
    fields.into_iter().filter_map(lease).collect()
}

/// An agent's record from the fields of its hash.
pub(super) fn read_record(mut fields: HashMap<String, String>) -> Record {
    let last_seen = fields.remove(LAST_SEEN);
    let mut owners: Vec<_> = fields
        .into_iter()
        .map(|(id, url)| Owner {
            replica: ReplicaId::new(&id),
            url,
        })
        .collect();
    // Two readings of the same content are equal.
    owners.sort_by(|a, b| a.replica.cmp(&b.replica));
    Record {
        owners,
        last_seen: last_seen.and_then(|text| text.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_and_keys_are_read_as_they_were_written() {
        let lease = Lease {
            replica: ReplicaId::new("kas-1"),
            url: "grpc://10.0.0.1:8155".into(),
            state: ReplicaState::Draining,
            version: "1".into(),
            beat: 7,
        };
        let keys = Keys::new("p");

        let fields = [
            ("kas-1".to_owned(), write_lease(&lease)),
            ("kas-2".to_owned(), "garbage".to_owned()),
        ];

        assert_eq!(read_leases(fields.into()), [lease]);
        assert_eq!(keys.agent(AgentId(7)), "p:kas:agent:{7}");
        assert_eq!(keys.agent_of("p:kas:agent:{7}"), Some(AgentId(7)));
        assert_eq!(keys.agent_of("p:kas:replicas"), None);
        assert_eq!(keys.repository(3), "p:kas:repository:{3}");
        assert_eq!(keys.project_of("p:kas:repository:{3}"), Some(3));
        assert_eq!(keys.project_of("p:kas:agent:{3}"), None);
    }
}
