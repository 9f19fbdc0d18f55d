//! Updates of presence that are to be written to the store. Pure state.
//!
//! An update waits a little: agents describe themselves in several calls, and a
//! stream that ends is often opened again at once.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::schedule::Schedule;
use crate::{
    id::AgentId,
    presence::{Presence, PresenceUpdate, StoredPresence},
};

/// Updates to write, and what the store holds as far as that is known.
#[derive(Debug)]
pub(super) struct PresenceOutbox {
    delay: Duration,
    /// After what time what is stored is written again.
    refresh_interval: Option<Duration>,
    /// When the last changes are written together.
    batch_at: Option<Instant>,
    agents: HashMap<AgentId, Entry>,
    due: Schedule,
}

#[derive(Debug)]
struct Entry {
    current: Option<Presence>,
    stored: StoredPresence,
    /// When what is stored is to be written again.
    refresh_at: Option<Instant>,
    due: Option<Instant>,
}

impl PresenceOutbox {
    /// Changes are written after `delay`, or up to a quarter of it sooner, so
    /// that changes in close succession share a write. What stays is written
    /// again after `refresh_interval`.
    pub(super) fn new(delay: Duration, refresh_interval: Option<Duration>) -> Self {
        Self {
            delay,
            refresh_interval,
            batch_at: None,
            agents: HashMap::new(),
            due: Schedule::default(),
        }
    }

    /// Sets the agent's presence.
    pub(super) fn set(&mut self, agent: AgentId, presence: Option<Presence>, now: Instant) {
        let batch_at = self.batch_at(now);
        let entry = self.agents.entry(agent).or_insert(Entry {
            current: None,
            stored: StoredPresence::Known(None),
            refresh_at: None,
            due: None,
        });
        entry.current = presence;
        let due = match (entry.is_stored(), entry.due) {
            (true, _) => entry.refresh_at,
            (false, due) => Some(due.map_or(batch_at, |due| due.min(batch_at))),
        };
        self.schedule(agent, due);
        self.forget(agent);
    }

    fn batch_at(&mut self, now: Instant) -> Instant {
        let latest = now + self.delay;
        let shared = self.batch_at.filter(|at| *at >= latest - self.delay / 4);
        *self.batch_at.insert(shared.unwrap_or(latest))
    }

    /// The presence of each agent, whether it was written yet or not.
    pub(super) fn current(&self) -> impl Iterator<Item = (AgentId, &Presence)> {
        let agents = self.agents.iter();
        agents.filter_map(|(agent, entry)| Some((*agent, entry.current.as_ref()?)))
    }

    /// The store may have lost data: everything is written again.
    pub(super) fn write_all_again(&mut self, now: Instant) {
        let agents: Vec<_> = self.agents.keys().copied().collect();
        for agent in agents {
            if let Some(entry) = self.agents.get_mut(&agent) {
                entry.stored = StoredPresence::Unknown;
                self.schedule(agent, Some(now));
            }
        }
    }

    /// When the next change is to be written.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.next()
    }

    /// The commands that writing up to `max` due changes takes: one for all, but
    /// one for each agent whose stored presence is unknown.
    pub(super) fn commands_due(&self, max: usize, now: Instant) -> usize {
        let due = self.due.due(now).take(max);
        due.filter(|agent| self.is_unknown(*agent)).count().max(1)
    }

    /// Takes up to `max` changes that are due, for at most so many commands. Each
    /// must be returned by [`Self::written`] or [`Self::failed`].
    pub(super) fn take(
        &mut self,
        max: usize,
        commands: usize,
        now: Instant,
    ) -> Vec<PresenceUpdate> {
        let (mut updates, mut left) = (Vec::new(), commands);
        while updates.len() < max {
            let Some(agent) = self.due.due(now).next() else {
                break;
            };
            if self.is_unknown(agent) {
                if left == 0 {
                    break;
                }
                left -= 1;
            }
            self.schedule(agent, None);
            if let Some(entry) = self.agents.get_mut(&agent) {
                updates.push(PresenceUpdate {
                    agent,
                    new: entry.current.clone(),
                    old: std::mem::replace(&mut entry.stored, StoredPresence::Unknown),
                });
            }
        }
        updates
    }

    fn is_unknown(&self, agent: AgentId) -> bool {
        let entry = self.agents.get(&agent);
        entry.is_some_and(|entry| entry.stored == StoredPresence::Unknown)
    }

    /// The store has taken these updates.
    pub(super) fn written(&mut self, updates: &[PresenceUpdate], now: Instant) {
        let refresh_at = self.refresh_interval.map(|interval| now + interval);
        for PresenceUpdate { agent, new, .. } in updates {
            let Some(entry) = self.agents.get_mut(agent) else {
                continue;
            };
            // A change meanwhile is scheduled already, and may mean that this
            // was lost again.
            if entry.due.is_none() {
                entry.stored = StoredPresence::Known(new.clone());
                entry.refresh_at = refresh_at.filter(|_| new.is_some());
                let due = entry.refresh_at;
                self.schedule(*agent, due);
                self.forget(*agent);
            }
        }
    }

    /// The store may or may not have taken these; they are due again.
    pub(super) fn failed(&mut self, updates: &[PresenceUpdate], now: Instant) {
        for PresenceUpdate { agent, .. } in updates {
            let open = self.agents.get(agent).is_some_and(|it| it.due.is_none());
            if open {
                self.schedule(*agent, Some(now));
            }
        }
    }

    /// Drops an agent that has no presence, here or in the store.
    fn forget(&mut self, agent: AgentId) {
        let over = |entry: &Entry| entry.current.is_none() && entry.is_stored();
        if self.agents.get(&agent).is_some_and(over) {
            self.schedule(agent, None);
            self.agents.remove(&agent);
        }
    }

    fn schedule(&mut self, agent: AgentId, due: Option<Instant>) {
        if let Some(entry) = self.agents.get_mut(&agent) {
            self.due.set(agent, &mut entry.due, due);
        }
    }
}

impl Entry {
    fn is_stored(&self) -> bool {
        matches!(&self.stored, StoredPresence::Known(stored) if *stored == self.current)
    }
}

#[cfg(test)]
mod tests;
