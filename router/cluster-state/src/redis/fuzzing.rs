//! What is read from Redis, for the fuzz targets (`tests/fuzz`).

use std::{collections::HashMap, sync::Arc};

use runtime::jwt::Secret;

use super::{
    format::{self, Keys},
    gitlab_kas::{GitLabKas, Records},
    metrics::StoreMetrics,
    presence,
    signature::Signer,
};
use crate::{
    connection_record::ConnectionRecord,
    id::AgentId,
    presence::{ConnectionForm, PresenceEntry},
};

/// The project and agent of which records are read.
const OF: i64 = 1;

/// What was made of one field of Redis.
#[derive(Debug, Default)]
pub struct Made {
    /// Bytes of texts that were taken over.
    pub bytes: usize,
    /// Connections that another kas, or another replica, has published.
    pub entries: Vec<PresenceEntry>,
}

/// Reads a key or field and its value as each kind of record there is.
#[must_use]
pub fn read(
    secret: Option<&Secret>,
    form: Arc<dyn ConnectionForm>,
    field: &[u8],
    value: &[u8],
) -> Made {
    let signer = Arc::new(Signer::new(secret, StoreMetrics::default()));
    let kas = GitLabKas {
        connections: form,
        only_tls: false,
    };
    let foreign = Records::new(kas, "p", signer.clone());
    let mut made = Made::default();
    made.entries.extend(foreign.read(AgentId(OF), field, value));
    made.bytes += foreign
        .keys()
        .agent_of(field)
        .map_or(0, |_| size_of::<i64>());
    let (Ok(field), Ok(value)) = (std::str::from_utf8(field), std::str::from_utf8(value)) else {
        return made;
    };
    let keys = Keys::new("p", true);
    let _ = (keys.agent_of(field), keys.project_of(field));
    let fields = || HashMap::from([(field.to_owned(), value.to_owned())]);
    for lease in format::read_leases(fields(), &signer) {
        made.bytes += lease.url.len() + lease.version.len();
    }
    for owner in format::read_record(AgentId(OF), fields(), &signer).owners {
        made.bytes += owner.url.len();
    }
    made.bytes += signer.read_head(OF, value).map_or(0, |it| it.len());
    made.bytes += signer.read_pin(AgentId(OF), value).map_or(0, |it| it.len());
    if let Ok(record) = serde_json::from_str::<ConnectionRecord>(value) {
        made.bytes += format!("{:?}", record.bounded()).len();
    }
    let _ = presence::agent_of_group(value);
    let replica = &crate::ReplicaId::new(field);
    let by = |signer| presence::Place {
        keys: &keys,
        signer,
        replica,
    };
    let _ = by(&signer).parse(value);
    // Presence without a signature is parsed further than that whose signature cannot be guessed.
    let open = Signer::new(None, StoreMetrics::default());
    made.entries.extend(by(&open).parse(value));
    made
}
