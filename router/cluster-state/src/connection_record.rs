//! Connection records: what happened to the connections of each agent, in a ring
//! of the last ones that outlives the replica which saw it.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use crate::{
    id::{AgentId, ReplicaId},
    store::StoreFuture,
};

/// Records that are kept of one agent.
pub const RECORDS_PER_AGENT: usize = 32;
/// Records that are kept of all who are nobody's agent.
pub const RECORDS_OF_STRANGERS: usize = 128;
/// Longest reason, in bytes.
const MAX_REASON_BYTES: usize = 200;
/// Longest name of an instance, in bytes.
const MAX_INSTANCE_BYTES: usize = 160;
/// Longest version, address or cluster, in bytes.
const MAX_TEXT_BYTES: usize = 64;

/// Whose records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordSubject {
    /// An agent's.
    Agent(AgentId),
    /// Those of tokens that belong to no agent that is known.
    Strangers,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionEvent {
    /// An agent process connected.
    Connected,
    /// An agent process is gone from the replica.
    Disconnected,
    /// A token, or a cluster, was refused.
    Refused,
}

/// Something that happened to an agent's connection. Texts are cut to their
/// bounds by [`ConnectionRecord::bounded`]; those of agents may say anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// When, in milliseconds since 1970, by the clock of the replica.
    pub at: u64,
    /// What.
    pub event: ConnectionEvent,
    /// Why, for people; empty for a connect.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The agent process: its namespace and pod, or its number; empty if that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// The version of agentk; empty if that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Where the connection came from: address and port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remote_addr: String,
    /// The replica that saw it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub replica: String,
    /// How it came: `grpc`, `grpcs`, `ws` or `wss`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    /// Of a disconnect: how long the process was connected, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Of a refusal: the fingerprint of the token, never the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The UID of the cluster, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// How many like it, or too many to be kept, were left out just before or after it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

/// A page of records: the newest of those that are older than `before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordsPage {
    /// Only records before this time, in milliseconds since 1970; `None` begins with the newest.
    pub before: Option<u64>,
    /// Records on the page, at most.
    pub limit: usize,
}

impl Default for RecordsPage {
    fn default() -> Self {
        Self {
            before: None,
            limit: RECORDS_PER_AGENT,
        }
    }
}

/// The store of connection records. What is written may be lost with the store.
pub trait ConnectionRecords: Debug + Send + Sync + 'static {
    /// Adds records of one subject, the oldest first, and drops those beyond its bound. One command where possible.
    fn append<'a>(
        &'a self,
        subject: RecordSubject,
        records: &'a [ConnectionRecord],
    ) -> StoreFuture<'a, ()>;

    /// The records of a page, the newest first.
    fn read(
        &self,
        subject: RecordSubject,
        page: RecordsPage,
    ) -> StoreFuture<'_, Vec<ConnectionRecord>>;
}

impl RecordSubject {
    /// How many records are kept.
    #[must_use]
    pub fn bound(self) -> usize {
        match self {
            Self::Agent(_) => RECORDS_PER_AGENT,
            Self::Strangers => RECORDS_OF_STRANGERS,
        }
    }
}

impl ConnectionRecord {
    /// A record of what `replica` saw happen at this time, of which nothing else is known yet.
    #[must_use]
    pub fn new(event: ConnectionEvent, at: u64, replica: &ReplicaId) -> Self {
        Self {
            at,
            event,
            reason: String::new(),
            instance: String::new(),
            version: String::new(),
            remote_addr: String::new(),
            replica: replica.to_string(),
            scheme: String::new(),
            duration_ms: None,
            token: None,
            cluster: None,
            left_out: 0,
        }
    }

    /// The same with its texts cut to their bounds, and without control characters.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        cut(&mut self.reason, MAX_REASON_BYTES);
        cut(&mut self.instance, MAX_INSTANCE_BYTES);
        cut(&mut self.replica, MAX_INSTANCE_BYTES);
        let optional = [&mut self.token, &mut self.cluster].into_iter().flatten();
        let texts = [&mut self.version, &mut self.remote_addr, &mut self.scheme];
        for text in texts.into_iter().chain(optional) {
            cut(text, MAX_TEXT_BYTES);
        }
        self
    }

    /// Whether both say the same but for the time.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let ip = |it: &Self| it.remote_addr.rsplit_once(':').map(|(ip, _)| ip.to_owned());
        self.event == other.event
            && self.reason == other.reason
            && self.instance == other.instance
            && self.token == other.token
            && self.cluster == other.cluster
            && ip(self) == ip(other)
    }
}

/// The records of a page among all of a subject, which are in the order of their writing, the newest first.
pub(crate) fn page_of(
    records: impl Iterator<Item = ConnectionRecord>,
    page: RecordsPage,
) -> Vec<ConnectionRecord> {
    let older = |it: &ConnectionRecord| page.before.is_none_or(|before| it.at < before);
    let mut found: Vec<_> = records.filter(older).collect();
    // Several replicas write, each a little later than it happened.
    found.sort_by_key(|it| std::cmp::Reverse(it.at));
    found.truncate(page.limit);
    found
}

fn cut(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
    text.retain(|character| !character.is_control());
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
