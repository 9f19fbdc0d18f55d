//! What replicas tell of the agents that they hold, for whoever asks who is
//! connected. The router does not look into it.

use std::sync::Arc;

use crate::id::{AgentId, ReplicaId};

/// What a replica tells of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// By what agents are looked up together: their project.
    pub group: i64,
    /// What is told. One line of text.
    pub text: Arc<str>,
}

/// Who is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everyone.
    All,
    /// These agents.
    Agents(Vec<AgentId>),
    /// The agents of these groups.
    Groups(Vec<i64>),
}

/// An agent, as a replica tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Which replica.
    pub replica: ReplicaId,
    /// Which agent.
    pub agent: AgentId,
    /// What it tells.
    pub presence: Presence,
}

/// A change of what a replica tells of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    /// Which agent.
    pub agent: AgentId,
    /// What is to be there.
    pub new: Option<Presence>,
    /// What is there.
    pub old: Before,
}

/// What a store has of an agent before a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// Just this.
    Known(Option<Presence>),
    /// Who knows: something went wrong.
    Unknown,
}

impl Wanted {
    /// Whether an agent of a group is meant.
    #[must_use]
    pub fn includes(&self, agent: AgentId, group: i64) -> bool {
        match self {
            Self::All => true,
            Self::Agents(agents) => agents.contains(&agent),
            Self::Groups(groups) => groups.contains(&group),
        }
    }
}
