//! What this replica tells of its agents, what the store was told, and what it
//! is to be told when: pure state.
//!
//! A change waits a little: what agents say of themselves comes in several
//! calls, and a stream that ends is often opened again at once.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::agenda::Agenda;
use crate::{
    id::AgentId,
    presence::{Before, Presence, Telling},
};

/// The changes that are to be written, with what is known of the written ones.
#[derive(Debug)]
pub(super) struct Roll {
    delay: Duration,
    /// When what changed last is written.
    moment: Option<Instant>,
    agents: HashMap<AgentId, Entry>,
    due: Agenda,
}

#[derive(Debug)]
struct Entry {
    wanted: Option<Presence>,
    told: Before,
    due: Option<Instant>,
}

impl Roll {
    /// Changes are written after `delay`, or up to a quarter of it sooner: those that come one after the other share
    /// the moment, and so the write.
    pub(super) fn new(delay: Duration) -> Self {
        Self {
            delay,
            moment: None,
            agents: HashMap::new(),
            due: Agenda::default(),
        }
    }

    /// This is to be told of the agent from now on.
    pub(super) fn tell(&mut self, agent: AgentId, presence: Option<Presence>, now: Instant) {
        let moment = self.moment(now);
        let entry = self.agents.entry(agent).or_insert(Entry {
            wanted: None,
            told: Before::Known(None),
            due: None,
        });
        entry.wanted = presence;
        let due = match (entry.is_told(), entry.due) {
            (true, _) => None,
            (false, due) => due.or(Some(moment)),
        };
        self.schedule(agent, due);
        self.forget(agent);
    }

    fn moment(&mut self, now: Instant) -> Instant {
        let latest = now + self.delay;
        let shared = self
            .moment
            .filter(|moment| *moment >= latest - self.delay / 4);
        *self.moment.insert(shared.unwrap_or(latest))
    }

    /// What is told of each agent, whether the store knows or not.
    pub(super) fn told(&self) -> impl Iterator<Item = (AgentId, &Presence)> {
        let agents = self.agents.iter();
        agents.filter_map(|(agent, entry)| Some((*agent, entry.wanted.as_ref()?)))
    }

    /// The store may have lost anything: all is told again.
    pub(super) fn retell(&mut self, now: Instant) {
        let agents: Vec<_> = self.agents.keys().copied().collect();
        for agent in agents {
            if let Some(entry) = self.agents.get_mut(&agent) {
                entry.told = Before::Unknown;
                self.schedule(agent, Some(now));
            }
        }
    }

    /// When the next change is to be written.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.next()
    }

    /// How many commands up to `max` changes that are due take: all together one,
    /// but one for each of which it is not known what the store knows.
    pub(super) fn commands_due(&self, max: usize, now: Instant) -> usize {
        let due = self.due.due(now).take(max);
        due.filter(|agent| self.is_unknown(*agent)).count().max(1)
    }

    /// Takes up to `max` changes that are due, for at most so many commands. Each
    /// must be given back by [`Self::written`] or [`Self::failed`].
    pub(super) fn take(&mut self, max: usize, commands: usize, now: Instant) -> Vec<Telling> {
        let (mut tellings, mut left) = (Vec::new(), commands);
        while tellings.len() < max {
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
                tellings.push(Telling {
                    agent,
                    new: entry.wanted.clone(),
                    old: std::mem::replace(&mut entry.told, Before::Unknown),
                });
            }
        }
        tellings
    }

    fn is_unknown(&self, agent: AgentId) -> bool {
        let entry = self.agents.get(&agent);
        entry.is_some_and(|entry| entry.told == Before::Unknown)
    }

    /// The store has taken these.
    pub(super) fn written(&mut self, tellings: &[Telling]) {
        for Telling { agent, new, .. } in tellings {
            let Some(entry) = self.agents.get_mut(agent) else {
                continue;
            };
            // Whatever has happened meanwhile has its own time, and may mean
            // that this was lost again.
            if entry.due.is_none() {
                entry.told = Before::Known(new.clone());
                self.forget(*agent);
            }
        }
    }

    /// The store may or may not have taken these; they are due again.
    pub(super) fn failed(&mut self, tellings: &[Telling], now: Instant) {
        for Telling { agent, .. } in tellings {
            let open = self.agents.get(agent).is_some_and(|it| it.due.is_none());
            if open {
                self.schedule(*agent, Some(now));
            }
        }
    }

    /// Forgets an agent of which nothing is told or known.
    fn forget(&mut self, agent: AgentId) {
        let over = |entry: &Entry| entry.wanted.is_none() && entry.is_told();
        if self.agents.get(&agent).is_some_and(over) {
            self.schedule(agent, None);
            self.agents.remove(&agent);
        }
    }

    fn schedule(&mut self, agent: AgentId, due: Option<Instant>) {
        if let Some(entry) = self.agents.get_mut(&agent) {
            self.due.schedule(agent, &mut entry.due, due);
        }
    }
}

impl Entry {
    fn is_told(&self) -> bool {
        matches!(&self.told, Before::Known(told) if *told == self.wanted)
    }
}

#[cfg(test)]
mod tests;
