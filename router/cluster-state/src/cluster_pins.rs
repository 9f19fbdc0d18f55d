//! Cluster pins: which cluster each agent belongs to, once that is known.

use std::{collections::HashMap, fmt::Debug, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{id::AgentId, store::StoreFuture};

/// Pins that are read, at most.
pub const MAX_PINS: usize = 100_000;

/// Identifies a cluster: the UID of its namespace `kube-system`, of 1 to 64 letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterUid(Arc<str>);

/// A text that is not the UID of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cluster's UID has 1 to 64 letters, digits and hyphens")]
pub struct ClusterUidError;

/// The pins of all agents, shared by all replicas. They last until they are removed, or the store is lost with them.
pub trait ClusterPins: Debug + Send + Sync + 'static {
    /// All pins; `None` for agents whose pin was removed. Of others nothing is known, or not any more.
    fn all(&self) -> StoreFuture<'_, HashMap<AgentId, Option<ClusterUid>>>;

    /// The pin of an agent.
    fn read(&self, agent: AgentId) -> StoreFuture<'_, Option<ClusterUid>>;

    /// Pins an agent unless it is pinned already; returns what it is pinned to.
    fn pin_first<'a>(
        &'a self,
        agent: AgentId,
        cluster: &'a ClusterUid,
    ) -> StoreFuture<'a, ClusterUid>;

    /// Pins an agent, whatever it was pinned to; `None` removes the pin.
    fn set<'a>(&'a self, agent: AgentId, cluster: Option<&'a ClusterUid>) -> StoreFuture<'a, ()>;
}

impl ClusterUid {
    const MAX_BYTES: usize = 64;

    /// Reads a UID.
    ///
    /// # Errors
    /// When the text is none.
    pub fn parse(text: &str) -> Result<Self, ClusterUidError> {
        let fits = (1..=Self::MAX_BYTES).contains(&text.len());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if fits && text.bytes().all(plain) {
            return Ok(Self(text.into()));
        }
        Err(ClusterUidError)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ClusterUid {
    type Error = ClusterUidError;

    fn try_from(text: String) -> Result<Self, ClusterUidError> {
        Self::parse(&text)
    }
}

impl From<ClusterUid> for String {
    fn from(uid: ClusterUid) -> Self {
        uid.0.as_ref().to_owned()
    }
}

impl std::fmt::Display for ClusterUid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_plain_and_short() {
        let uid = "6a2b8f0e-7e2a-4c39-8f0b-0123456789ab";
        assert_eq!(ClusterUid::parse(uid).unwrap().as_str(), uid);
        for wrong in ["", "a b", "a/b", "ü", "x\n", &"a".repeat(65)] {
            assert_eq!(ClusterUid::parse(wrong), Err(ClusterUidError), "{wrong:?}");
        }
    }
}
