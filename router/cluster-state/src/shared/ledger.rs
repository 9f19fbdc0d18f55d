//! What this replica holds, what the store was told, and what it is to be told
//! when: pure state.
//!
//! Tunnels come and go with every call, and all of an agent's at once when a
//! load balancer cuts a connection; the store hears of it only when the agent
//! has truly come or gone. What the store was told is unknown as soon as
//! anything goes wrong, and is told again then: doing so twice does no harm.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::agenda::Agenda;
use crate::{
    id::{AgentId, ReplicaId},
    store::Change,
};

/// When changes are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// How long an agent must be gone before that is written.
    pub(super) debounce: Duration,
    /// After what time an entry is written again, so that it does not expire.
    pub(super) refresh: Duration,
}

/// The changes that are to be written, with what is known of the written ones.
#[derive(Debug)]
pub(super) struct Ledger {
    pace: Pace,
    agents: HashMap<AgentId, Entry>,
    due: Agenda,
    graves: BTreeSet<(AgentId, ReplicaId)>,
}

#[derive(Debug)]
struct Entry {
    held: bool,
    /// When it was last not held, in seconds since 1970.
    left_at: u64,
    told: Told,
    due: Option<Instant>,
}

/// What the store knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// That this replica holds the agent; to be told again then.
    Own {
        refresh_at: Instant,
    },
    /// That it does not any more; kept in mind until then, since a store that
    /// fails over may forget that too.
    Gone {
        until: Instant,
    },
    Nothing,
    Unknown,
}

/// How long it is kept in mind that an agent has gone.
const MINDFUL: Duration = Duration::from_secs(60);

impl Ledger {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            agents: HashMap::new(),
            due: Agenda::default(),
            graves: BTreeSet::new(),
        }
    }

    /// This replica holds the agent.
    pub(super) fn announce(&mut self, agent: AgentId, now: Instant) {
        let entry = self.agents.entry(agent).or_insert(Entry {
            held: false,
            left_at: 0,
            told: Told::Nothing,
            due: None,
        });
        entry.held = true;
        let due = match entry.told {
            Told::Own { refresh_at } => refresh_at,
            Told::Gone { .. } | Told::Nothing | Told::Unknown => now,
        };
        self.schedule(agent, Some(due));
    }

    /// This replica does not hold the agent any more, at `unix` in seconds since 1970.
    pub(super) fn retract(&mut self, agent: AgentId, now: Instant, unix: u64) {
        let Some(entry) = self.agents.get_mut(&agent) else {
            return;
        };
        entry.held = false;
        entry.left_at = unix;
        self.schedule(agent, Some(now + self.pace.debounce));
    }

    /// A dead replica's entry is to go.
    pub(super) fn bury(&mut self, agent: AgentId, replica: ReplicaId) {
        self.graves.insert((agent, replica));
    }

    /// Whether dead replicas' entries are to go.
    pub(super) fn has_graves(&self) -> bool {
        !self.graves.is_empty()
    }

    /// The store may have lost anything: all that is held, or was until lately,
    /// is told again.
    pub(super) fn retell(&mut self, now: Instant) {
        let agents: Vec<_> = self.agents.keys().copied().collect();
        for agent in agents {
            if let Some(entry) = self.agents.get_mut(&agent) {
                let told = std::mem::replace(&mut entry.told, Told::Unknown);
                if entry.held || matches!(told, Told::Gone { .. }) {
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
                if matches!(entry.told, Told::Gone { .. }) && !entry.held {
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
        if !self.graves.is_empty() {
            return Some(now);
        }
        self.due.next()
    }

    /// Takes up to `max` changes that are due. Each must be given back by
    /// [`Self::written`] or [`Self::failed`].
    pub(super) fn take(&mut self, max: usize, now: Instant, unix: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < max {
            let Some(agent) = self.due.due(now).next() else {
                break;
            };
            self.schedule(agent, None);
            let Some(entry) = self.agents.get_mut(&agent) else {
                continue;
            };
            if !entry.held && matches!(entry.told, Told::Gone { .. }) {
                self.agents.remove(&agent);
                continue;
            }
            entry.told = Told::Unknown;
            changes.push(if entry.held {
                Change::Own(agent)
            } else {
                Change::Disown(agent, entry.left_at)
            });
        }
        while changes.len() < max {
            let Some((agent, replica)) = self.graves.pop_first() else {
                break;
            };
            changes.push(Change::Bury(agent, replica, unix));
        }
        changes
    }

    /// The store has taken these.
    pub(super) fn written(&mut self, changes: &[Change], now: Instant) {
        for change in changes {
            match *change {
                Change::Own(agent) => {
                    let refresh_at = now + jittered(self.pace.refresh, agent);
                    self.told(agent, Told::Own { refresh_at }, now);
                }
                Change::Disown(agent, _) => {
                    let until = now + MINDFUL;
                    self.told(agent, Told::Gone { until }, now);
                }
                Change::Bury(..) => {}
            }
        }
    }

    /// The store may or may not have taken these; they are due again.
    pub(super) fn failed(&mut self, changes: &[Change], now: Instant) {
        for change in changes {
            match change {
                Change::Own(agent) | Change::Disown(agent, _) => {
                    let open = self.agents.get(agent).is_some_and(|it| it.due.is_none());
                    if open {
                        self.schedule(*agent, Some(now));
                    }
                }
                Change::Bury(agent, replica, _) => {
                    self.graves.insert((*agent, replica.clone()));
                }
            }
        }
    }

    /// Changes that wait or are under way, refreshes aside.
    pub(super) fn pending(&self) -> usize {
        let open = self.agents.values().filter(|it| it.is_open()).count();
        open + self.graves.len()
    }

    fn told(&mut self, agent: AgentId, told: Told, now: Instant) {
        let Some(entry) = self.agents.get_mut(&agent) else {
            return;
        };
        entry.told = told;
        if entry.due.is_some() {
            // It came or went meanwhile, which has its own time already.
            return;
        }
        match (entry.held, told) {
            (true, Told::Own { refresh_at }) => self.schedule(agent, Some(refresh_at)),
            (false, Told::Gone { until }) => self.schedule(agent, Some(until)),
            (false, Told::Nothing) => {
                self.agents.remove(&agent);
            }
            (true, Told::Gone { .. } | Told::Nothing | Told::Unknown)
            | (false, Told::Own { .. } | Told::Unknown) => self.schedule(agent, Some(now)),
        }
    }

    fn schedule(&mut self, agent: AgentId, due: Option<Instant>) {
        if let Some(entry) = self.agents.get_mut(&agent) {
            self.due.schedule(agent, &mut entry.due, due);
        }
    }
}

impl Entry {
    fn is_open(&self) -> bool {
        match self.told {
            Told::Own { .. } => !self.held,
            Told::Gone { .. } | Told::Nothing => self.held,
            Told::Unknown => true,
        }
    }
}

/// Up to a tenth less, by the agent, so that refreshes spread.
fn jittered(period: Duration, agent: AgentId) -> Duration {
    let spread = u32::try_from(agent.0.unsigned_abs() % 100).unwrap_or(0);
    period - period / 1000 * spread
}

#[cfg(test)]
mod tests;
