//! Agents in the order in which they are due. Pure state.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::id::AgentId;

/// Agents by due time.
#[derive(Debug, Default)]
pub(super) struct Schedule(BTreeSet<(Instant, AgentId)>);

impl Schedule {
    /// Moves an agent from its due time, which is kept in `slot`, to another, or removes it.
    pub(super) fn set(&mut self, agent: AgentId, slot: &mut Option<Instant>, due: Option<Instant>) {
        if let Some(before) = std::mem::replace(slot, due) {
            self.0.remove(&(before, agent));
        }
        if let Some(due) = due {
            self.0.insert((due, agent));
        }
    }

    /// When the next agent is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// The agents that are due.
    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = AgentId> {
        let due = self.0.iter().take_while(move |(at, _)| *at <= now);
        due.map(|(_, agent)| *agent)
    }
}
