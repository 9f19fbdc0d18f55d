//! When something is to be written about which agent: pure state of those who tell the store.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::id::AgentId;

/// The agents in the order of their times.
#[derive(Debug, Default)]
pub(super) struct Agenda(BTreeSet<(Instant, AgentId)>);

impl Agenda {
    /// Moves an agent from its time, which `slot` knows, to another, or takes it off.
    pub(super) fn schedule(
        &mut self,
        agent: AgentId,
        slot: &mut Option<Instant>,
        due: Option<Instant>,
    ) {
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
