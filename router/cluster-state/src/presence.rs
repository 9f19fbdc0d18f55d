//! Presence: what each replica publishes about the agents that are connected to
//! it. Opaque text for this crate.

use std::{fmt::Debug, sync::Arc};

use crate::id::{AgentId, ReplicaId};

/// What a replica publishes about an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// The group by which agents are looked up: their project.
    pub group: i64,
    /// The content. One line of text.
    pub text: Arc<str>,
}

/// The replica that entries name which another kas has published: they do not say at which of its replicas it is.
pub const FOREIGN_REPLICA: &str = "gitlab-kas";

/// The form in which another kas keeps connections of agents, for a set in which it is a replica too. Opaque bytes for
/// this crate.
pub trait ConnectionForm: Debug + Send + Sync {
    /// The connections that an agent's presence consists of, each with its id.
    fn encode(&self, agent: AgentId, presence: &Presence) -> Vec<(i64, Vec<u8>)>;

    /// The agent, and the presence that consists of this connection; `None` if the bytes are none.
    fn decode(&self, connection: &[u8]) -> Option<(AgentId, Presence)>;
}

/// Selects agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceQuery {
    /// All agents.
    All,
    /// These agents.
    Agents(Vec<AgentId>),
    /// The agents of these groups.
    Groups(Vec<i64>),
}

/// An agent's presence at one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceEntry {
    /// The replica that published it.
    pub replica: ReplicaId,
    /// The agent.
    pub agent: AgentId,
    /// The content.
    pub presence: Presence,
}

/// A change of one agent's presence at one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceUpdate {
    /// The agent.
    pub agent: AgentId,
    /// The new content; `None` removes it.
    pub new: Option<Presence>,
    /// The content that it replaces.
    pub old: StoredPresence,
}

/// What a store holds for an agent before an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPresence {
    /// Exactly this.
    Known(Option<Presence>),
    /// Anything: the outcome of an earlier write is unknown.
    Unknown,
}

impl PresenceQuery {
    /// Whether it selects an agent of this group.
    #[must_use]
    pub fn includes(&self, agent: AgentId, group: i64) -> bool {
        match self {
            Self::All => true,
            Self::Agents(agents) => agents.contains(&agent),
            Self::Groups(groups) => groups.contains(&group),
        }
    }
}
