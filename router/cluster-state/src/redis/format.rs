//! Keys and values in Redis.
//!
//! | key | type | content |
//! |---|---|---|
//! | `<prefix>:kas2:replicas` | hash | replica id → its lease, as JSON, with its signature |
//! | `<prefix>:kas2:agent:{<agent id>}` | hash | replica id → the entry's signature, a space and the replica's URL, for each owner; `last_seen` → the signature, a space and seconds since 1970 |
//! | `<prefix>:kas2:presence:{<replica id>}` | sorted set | see [`super::presence`] |
//! | `<prefix>:kas2:repository:{<project id>}` | hash | replica id → `1`, for each that serves agents of it; `head` → the signature, a space and the assignee's last result |
//! | `<prefix>:kas:configured:{<agent id>}` | string | the commit whose configuration was reported to GitLab |
//! | `<prefix>:kas:once:{<name>}` | string | `1`, for a one-time claim, such as the use of a WebSocket token |
//! | `<prefix>:kas2:connections:{<agent id>}` | list | the last connection records of an agent, each the signature, a space and JSON, the newest first; of strangers with `strangers` for the id |
//! | `<prefix>:kas2:clusters` | hash | agent id → the signature, a space and the UID of the cluster that it is pinned to |
//!
//! Signatures: see [`super::signature`]. Without a secret there are none, and `kas2` is `kas`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::signature::Signer;
use crate::{
    connection_record::RecordSubject,
    id::{AgentId, Owner, ReplicaId},
    store::{Lease, Load, Record, ReplicaState},
};

/// The field of an agent's hash that names no replica.
pub(super) const LAST_SEEN: &str = "last_seen";

/// Leases that are read, at most.
pub(super) const MAX_LEASES: usize = 1000;
/// Owners of one agent that are read, at most.
pub(super) const MAX_OWNERS: usize = 64;
/// Bytes of a lease or an owner's entry, with its field, at most.
pub(super) const MAX_ENTRY_BYTES: usize = 4096;

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
    one_time: String,
    connections: String,
    pub(super) clusters: String,
}

impl Keys {
    /// Keys with this prefix; signed entries have keys of their own.
    pub(super) fn new(prefix: &str, signed: bool) -> Self {
        let table = if signed { "kas2" } else { "kas" };
        Self {
            replicas: format!("{prefix}:{table}:replicas"),
            agent: format!("{prefix}:{table}:agent:"),
            presence: format!("{prefix}:{table}:presence:"),
            repository: format!("{prefix}:{table}:repository:"),
            configured: format!("{prefix}:kas:configured:"),
            one_time: format!("{prefix}:kas:once:"),
            connections: format!("{prefix}:{table}:connections:"),
            clusters: format!("{prefix}:{table}:clusters"),
        }
    }

    /// The key of a repository's poll record.
    pub(super) fn repository(&self, project: i64) -> String {
        format!("{}{{{project}}}", self.repository)
    }

    /// The project whose repository's poll record a key is.
    pub(super) fn project_of(&self, key: &str) -> Option<i64> {
        let id = key.strip_prefix(&self.repository)?;
        id.strip_prefix('{')?.strip_suffix('}')?.parse().ok()
    }

    /// The key of the version of an agent's configuration that was reported to GitLab.
    pub(super) fn configured(&self, agent: AgentId) -> String {
        format!("{}{{{agent}}}", self.configured)
    }

    /// The key of a one-time claim.
    pub(super) fn one_time(&self, name: &str) -> String {
        format!("{}{{{name}}}", self.one_time)
    }

    /// The key of the connection records of a subject.
    pub(super) fn connections(&self, subject: RecordSubject) -> String {
        match subject {
            RecordSubject::Agent(agent) => format!("{}{{{agent}}}", self.connections),
            RecordSubject::Strangers => format!("{}{{strangers}}", self.connections),
        }
    }

    /// The key of an agent's record; the braces choose its slot in a cluster.
    pub(super) fn agent(&self, agent: AgentId) -> String {
        format!("{}{{{agent}}}", self.agent)
    }

    /// The key of a replica's presence.
    pub(super) fn presence(&self, replica: &ReplicaId) -> String {
        format!("{}{{{replica}}}", self.presence)
    }

    /// The agent whose record a key is.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    load: Option<WrittenLoad>,
}

/// Signed apart from the lease, which replicas that know nothing of it verify without it.
#[derive(Serialize, Deserialize)]
struct WrittenLoad {
    agent_connections: u32,
    max_agent_connections: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum State {
    Serving,
    Draining,
}

/// The value of a lease.
pub(super) fn write_lease(lease: &Lease, signer: &Signer) -> String {
    let written = Written {
        url: lease.url.clone(),
        state: match lease.state {
            ReplicaState::Serving => State::Serving,
            ReplicaState::Draining => State::Draining,
        },
        version: lease.version.clone(),
        beat: lease.beat,
        mac: signer.of_lease(lease),
        load: lease.load.map(|load| WrittenLoad {
            agent_connections: load.agent_connections,
            max_agent_connections: load.max_agent_connections,
            mac: signer.of_load(lease, load),
        }),
    };
    serde_json::to_string(&written).expect("strings and numbers are JSON")
}

/// The valid leases among the fields of the replicas' hash.
pub(super) fn read_leases(fields: HashMap<String, String>, signer: &Signer) -> Vec<Lease> {
    let lease = |(id, text): (String, String)| {
        if id.len() + text.len() > MAX_ENTRY_BYTES {
            signer.reject("lease");
            return None;
        }
        let written: Written = serde_json::from_str(&text).ok()?;
        let mut lease = Lease {
            replica: ReplicaId::new(&id),
            url: written.url,
            state: match written.state {
                State::Serving => ReplicaState::Serving,
                State::Draining => ReplicaState::Draining,
            },
            version: written.version,
            beat: written.beat,
            load: None,
        };
        if !signer.accepts_lease(&lease, written.mac.as_deref()) {
            return None;
        }
        lease.load = written.load.and_then(|it| {
            let load = Load {
                agent_connections: it.agent_connections,
                max_agent_connections: it.max_agent_connections,
            };
            let accepted = signer.accepts_load(&lease, load, it.mac.as_deref());
            accepted.then_some(load)
        });
        Some(lease)
    };
    let leases = fields.into_iter().filter_map(lease);
    leases.take(MAX_LEASES).collect()
}

/// The field and the value of an owner's entry.
pub(super) fn write_owner(agent: AgentId, owner: &Owner, signer: &Signer) -> (String, String) {
    let value = match signer.of_owner(agent, owner) {
        Some(mac) => format!("{mac} {}", owner.url),
        None => owner.url.clone(),
    };
    (owner.replica.to_string(), value)
}

fn read_owner(agent: AgentId, id: &str, value: &str, signer: &Signer) -> Option<Owner> {
    if id.len() + value.len() > MAX_ENTRY_BYTES {
        signer.reject("owner");
        return None;
    }
    let (mac, url) = match value.split_once(' ') {
        Some((mac, url)) => (Some(mac), url),
        None => (None, value),
    };
    let owner = Owner {
        replica: ReplicaId::new(id),
        url: url.to_owned(),
    };
    signer.accepts_owner(agent, &owner, mac).then_some(owner)
}

/// An agent's record from the fields of its hash.
pub(super) fn read_record(
    agent: AgentId,
    mut fields: HashMap<String, String>,
    signer: &Signer,
) -> Record {
    let written = fields.remove(LAST_SEEN);
    let last_seen = written.as_deref();
    let last_seen = last_seen.and_then(|it| signer.read_last_seen(agent, it));
    let named = fields.len();
    let mut owners: Vec<_> = fields
        .iter()
        .filter_map(|(id, value)| read_owner(agent, id, value, signer))
        .take(MAX_OWNERS)
        .collect();
    // So that two reads of the same content are equal.
    owners.sort_by(|a, b| a.replica.cmp(&b.replica));
    Record {
        // What an older version wrote has no signature: the agent was there, and nobody knows when.
        incomplete: owners.len() < named || last_seen.is_none() && written.is_some(),
        owners,
        foreign: Vec::new(),
        last_seen,
    }
}

#[cfg(test)]
mod tests {
    use runtime::jwt::Secret;

    use super::*;
    use crate::redis::metrics::StoreMetrics;

    #[test]
    fn leases_and_keys_are_read_as_they_were_written() {
        let lease = Lease {
            replica: ReplicaId::new("kas-1"),
            url: "grpc://10.0.0.1:8155".into(),
            state: ReplicaState::Draining,
            version: "1".into(),
            beat: 7,
            load: Some(Load {
                agent_connections: 20,
                max_agent_connections: 100,
            }),
        };
        let keys = Keys::new("p", false);
        let signer = Signer::new(None, StoreMetrics::default());

        let fields = [
            ("kas-1".to_owned(), write_lease(&lease, &signer)),
            ("kas-2".to_owned(), "garbage".to_owned()),
        ];

        assert_eq!(read_leases(fields.into(), &signer), [lease]);
        assert_eq!(keys.agent(AgentId(7)), "p:kas:agent:{7}");
        assert_eq!(keys.agent_of("p:kas:agent:{7}"), Some(AgentId(7)));
        assert_eq!(keys.agent_of("p:kas:replicas"), None);
        assert_eq!(keys.repository(3), "p:kas:repository:{3}");
        assert_eq!(keys.project_of("p:kas:repository:{3}"), Some(3));
        assert_eq!(keys.project_of("p:kas:agent:{3}"), None);
    }

    #[test]
    fn entries_count_only_with_a_replicas_signature_and_only_where_it_wrote_them() {
        let signer = |byte| {
            let secret = Secret::new(vec![byte; 32]);
            Signer::new(Some(&secret), StoreMetrics::default())
        };
        let (ours, theirs) = (signer(1), signer(2));
        let lease = Lease {
            replica: ReplicaId::new("a"),
            url: "grpc://10.0.0.1:8155".into(),
            state: ReplicaState::Serving,
            version: "1".into(),
            beat: 7,
            load: Some(Load {
                agent_connections: 20,
                max_agent_connections: 100,
            }),
        };
        let owner = Owner {
            replica: lease.replica.clone(),
            url: lease.url.clone(),
        };
        let text = write_lease(&lease, &ours);
        let read = |id: &str, text: String| read_leases([(id.to_owned(), text)].into(), &ours);
        let (id, value) = write_owner(AgentId(1), &owner, &ours);
        let owners = |agent, id: &str, value: String| {
            let fields = [(id.to_owned(), value)].into();
            read_record(AgentId(agent), fields, &ours).owners
        };

        assert_eq!(read("a", text.clone()), std::slice::from_ref(&lease));
        for (id, text) in [
            ("b", text.clone()),
            ("a", text.replace("10.0.0.1", "10.0.0.2")),
            ("a", text.replace(":7", ":8")),
            ("a", write_lease(&lease, &theirs)),
            (
                "a",
                write_lease(&lease, &Signer::new(None, StoreMetrics::default())),
            ),
        ] {
            assert_eq!(read(id, text), []);
        }
        // A load that was changed, or is another replica's, is as good as none.
        let other = Lease {
            replica: ReplicaId::new("b"),
            ..lease.clone()
        };
        for text in [text.replace(":20", ":21"), text.replace(":100", ":101")] {
            let unloaded = Lease {
                load: None,
                ..lease.clone()
            };
            assert_eq!(read("a", text), [unloaded]);
        }
        let mut mixed: Written = serde_json::from_str(&write_lease(&other, &ours)).unwrap();
        mixed.load = serde_json::from_str::<Written>(&text).unwrap().load;
        let mixed = serde_json::to_string(&mixed).unwrap();
        assert_eq!(read("b", mixed)[0].load, None);
        assert_eq!(owners(1, &id, value.clone()), std::slice::from_ref(&owner));
        for (agent, id, value) in [
            (2, "a", value.clone()),
            (1, "b", value.clone()),
            (1, "a", value.replace("10.0.0.1", "10.0.0.2")),
            (1, "a", write_owner(AgentId(1), &owner, &theirs).1),
            (1, "a", owner.url.clone()),
            (1, "a", "x".repeat(100_000)),
        ] {
            assert_eq!(owners(agent, id, value), []);
        }
    }

    #[test]
    fn a_time_that_nobody_signed_makes_it_uncertain_when_the_agent_was_there() {
        let secret = Secret::new(vec![1; 32]);
        let signer = Signer::new(Some(&secret), StoreMetrics::default());
        let read = |text: String| {
            let fields = [(LAST_SEEN.to_owned(), text)].into();
            let record = read_record(AgentId(1), fields, &signer);
            (record.last_seen, record.incomplete)
        };

        assert_eq!(
            read(signer.write_last_seen(AgentId(1), 7)),
            (Some(7), false)
        );
        for text in ["1700000000".to_owned(), "9".repeat(1 << 20)] {
            assert_eq!(read(text), (None, true));
        }
        let nothing = read_record(AgentId(1), HashMap::new(), &signer);
        assert!(!nothing.incomplete);
    }
}
