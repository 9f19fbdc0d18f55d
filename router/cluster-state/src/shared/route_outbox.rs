//! Changes of routes that are to be written to the store. Pure state.
//!
//! Tunnels come and go with every call, and all of an agent's at once when a
//! load balancer cuts a connection: only an agent that has stayed or gone for
//! the debounce time is written. What the store holds is unknown as soon as a
//! write fails, and is written again then, which is idempotent.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::schedule::Schedule;
use crate::{
    id::{AgentId, ReplicaId},
    store::RouteChange,
};

/// When changes are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// How long an agent must be gone before that is written.
    pub(super) debounce: Duration,
    /// After what time an entry is written again, so that it does not expire.
    pub(super) refresh_interval: Duration,
}

/// Changes to write, and what the store holds as far as that is known.
#[derive(Debug)]
pub(super) struct RouteOutbox {
    timing: Timing,
    agents: HashMap<AgentId, Entry>,
    due: Schedule,
    dead_entries: BTreeSet<(AgentId, ReplicaId)>,
}

#[derive(Debug)]
struct Entry {
    held: bool,
    /// When it was last not held, in seconds since 1970.
    left_at: u64,
    stored: Stored,
    due: Option<Instant>,
}

/// What the store holds for an agent of this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// This replica as an owner; to be refreshed then.
    Owner {
        refresh_at: Instant,
    },
    /// No entry since the retraction, which is remembered until then: a store
    /// that fails over may lose it.
    Retracted {
        until: Instant,
    },
    Nothing,
    /// Anything: a write is under way or failed.
    Unknown,
}

/// How long a retraction is remembered.
const RETRACTION_TTL: Duration = Duration::from_secs(60);

impl RouteOutbox {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            timing,
            agents: HashMap::new(),
            due: Schedule::default(),
            dead_entries: BTreeSet::new(),
        }
    }

    /// This replica holds the agent.
    pub(super) fn announce(&mut self, agent: AgentId, now: Instant) {
        let entry = self.agents.entry(agent).or_insert(Entry {
            held: false,
            left_at: 0,
            stored: Stored::Nothing,
            due: None,
        });
        entry.held = true;
        let due = match entry.stored {
            Stored::Owner { refresh_at } => refresh_at,
            Stored::Retracted { .. } | Stored::Nothing | Stored::Unknown => now,
        };
        self.schedule(agent, Some(due));
    }

    /// This replica does not hold the agent any more, since `unix` in seconds since 1970.
    pub(super) fn retract(&mut self, agent: AgentId, now: Instant, unix: u64) {
        let Some(entry) = self.agents.get_mut(&agent) else {
            return;
        };
        entry.held = false;
        entry.left_at = unix;
        self.schedule(agent, Some(now + self.timing.debounce));
    }

    /// A dead replica's entry is to be removed.
    pub(super) fn remove_dead(&mut self, agent: AgentId, replica: ReplicaId) {
        self.dead_entries.insert((agent, replica));
    }

    /// Whether there are dead replicas' entries to remove.
    pub(super) fn has_dead_entries(&self) -> bool {
        !self.dead_entries.is_empty()
    }

    /// The store may have lost data: everything that is held, and every recent
    /// retraction, is written again.
    pub(super) fn write_all_again(&mut self, now: Instant) {
        let agents: Vec<_> = self.agents.keys().copied().collect();
        for agent in agents {
            if let Some(entry) = self.agents.get_mut(&agent) {
                let stored = std::mem::replace(&mut entry.stored, Stored::Unknown);
                if entry.held || matches!(stored, Stored::Retracted { .. }) {
                    self.schedule(agent, Some(now));
                }
            }
        }
    }

    /// This replica leaves: everything is retracted at once.
    pub(super) fn leave(&mut self, now: Instant, unix: u64) {
        let agents: Vec<_> = self.agents.keys().copied().collect();
        for agent in agents {
            if let Some(entry) = self.agents.get_mut(&agent) {
                if matches!(entry.stored, Stored::Retracted { .. }) && !entry.held {
                    continue;
                }
                if entry.held {
                    entry.held = false;
                    entry.left_at = unix;
                }
                self.schedule(agent, Some(now));
            }
        }
    }

    /// When the next change is to be written.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        if !self.dead_entries.is_empty() {
            return Some(now);
        }
        self.due.next()
    }

    /// Takes up to `max` changes that are due. Each must be returned by
    /// [`Self::written`] or [`Self::failed`].
    pub(super) fn take(&mut self, max: usize, now: Instant, unix: u64) -> Vec<RouteChange> {
        let mut changes = Vec::new();
        while changes.len() < max {
            let Some(agent) = self.due.due(now).next() else {
                break;
            };
            self.schedule(agent, None);
            let Some(entry) = self.agents.get_mut(&agent) else {
                continue;
            };
            if !entry.held && matches!(entry.stored, Stored::Retracted { .. }) {
                self.agents.remove(&agent);
                continue;
            }
            entry.stored = Stored::Unknown;
            changes.push(if entry.held {
                RouteChange::Announce(agent)
            } else {
                RouteChange::Retract(agent, entry.left_at)
            });
        }
        while changes.len() < max {
            let Some((agent, replica)) = self.dead_entries.pop_first() else {
                break;
            };
            changes.push(RouteChange::RemoveDead(agent, replica, unix));
        }
        changes
    }

    /// The store has taken these changes.
    pub(super) fn written(&mut self, changes: &[RouteChange], now: Instant) {
        for change in changes {
            match *change {
                RouteChange::Announce(agent) => {
                    let refresh_at = now + jittered(self.timing.refresh_interval, agent);
                    self.stored(agent, Stored::Owner { refresh_at }, now);
                }
                RouteChange::Retract(agent, _) => {
                    let until = now + RETRACTION_TTL;
                    self.stored(agent, Stored::Retracted { until }, now);
                }
                RouteChange::RemoveDead(..) => {}
            }
        }
    }

    /// The store may or may not have taken these; they are due again.
    pub(super) fn failed(&mut self, changes: &[RouteChange], now: Instant) {
        for change in changes {
            match change {
                RouteChange::Announce(agent) | RouteChange::Retract(agent, _) => {
                    let open = self.agents.get(agent).is_some_and(|it| it.due.is_none());
                    if open {
                        self.schedule(*agent, Some(now));
                    }
                }
                RouteChange::RemoveDead(agent, replica, _) => {
                    self.dead_entries.insert((*agent, replica.clone()));
                }
            }
        }
    }

    /// Changes that wait or are under way, without refreshes.
    pub(super) fn pending(&self) -> usize {
        let open = self.agents.values().filter(|it| it.is_open()).count();
        open + self.dead_entries.len()
    }

    fn stored(&mut self, agent: AgentId, stored: Stored, now: Instant) {
        let Some(entry) = self.agents.get_mut(&agent) else {
            return;
        };
        entry.stored = stored;
        if entry.due.is_some() {
            // It came or went meanwhile, and is scheduled for that already.
            return;
        }
        match (entry.held, stored) {
            (true, Stored::Owner { refresh_at }) => self.schedule(agent, Some(refresh_at)),
            (false, Stored::Retracted { until }) => self.schedule(agent, Some(until)),
            (false, Stored::Nothing) => {
                self.agents.remove(&agent);
            }
            (true, Stored::Retracted { .. } | Stored::Nothing | Stored::Unknown)
            | (false, Stored::Owner { .. } | Stored::Unknown) => self.schedule(agent, Some(now)),
        }
    }

    fn schedule(&mut self, agent: AgentId, due: Option<Instant>) {
        if let Some(entry) = self.agents.get_mut(&agent) {
            self.due.set(agent, &mut entry.due, due);
        }
    }
}

impl Entry {
    fn is_open(&self) -> bool {
        match self.stored {
            Stored::Owner { .. } => !self.held,
            Stored::Retracted { .. } | Stored::Nothing => self.held,
            Stored::Unknown => true,
        }
    }
}

/// Up to a tenth less, depending on the agent, so that refreshes spread.
fn jittered(period: Duration, agent: AgentId) -> Duration {
    let spread = u32::try_from(agent.0.unsigned_abs() % 100).unwrap_or(0);
    period - period / 1000 * spread
}

#[cfg(test)]
mod tests;
