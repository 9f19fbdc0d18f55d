//! What was wrong with agents' connections to this replica in the last minutes: what was refused and what was lost. Of
//! a bounded number of agents, and nothing of those with whom all is well.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cluster_state::{AgentId, ConnectionRecord};
use tokio::time::Instant;

/// Minutes of which it is told.
const MINUTES: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// Agents of which anything is kept.
const MAX_AGENTS: usize = 10_000;

/// What was wrong with the connections of one agent in the last ten minutes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecentTrouble {
    /// How often it was refused.
    pub refused: u64,
    /// Why it was the last time; empty if it was not.
    pub refusal: String,
    /// How often a process of it lost its connections without a word.
    pub lost: u64,
}

/// Those of all agents.
#[derive(Debug)]
pub(super) struct RecentTroubles {
    begun: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    agents: HashMap<AgentId, Trouble>,
    /// The minute in which it was looked last who can be forgotten.
    swept: Option<u64>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// The minute of the last one, counted from the start.
    minute: u64,
    refused: [u32; MINUTES],
    lost: [u32; MINUTES],
    refusal: String,
}

impl Default for RecentTroubles {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            kept: Mutex::default(),
        }
    }
}

impl RecentTroubles {
    /// An agent was refused.
    pub(super) fn refused(&self, agent: AgentId, record: &ConnectionRecord, now: Instant) {
        self.change(agent, now, |trouble, at| {
            trouble.refused[at] = trouble.refused[at].saturating_add(1);
            trouble.refusal.clone_from(&record.reason);
        });
    }

    /// A process of an agent lost its connections.
    pub(super) fn lost(&self, agent: AgentId, now: Instant) {
        self.change(agent, now, |trouble, at| {
            trouble.lost[at] = trouble.lost[at].saturating_add(1);
        });
    }

    /// All that was wrong until now.
    pub(super) fn all(&self, now: Instant) -> Vec<(AgentId, RecentTrouble)> {
        let minute = self.minute(now);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.sweep(minute);
        let all = kept.agents.iter_mut().map(|(agent, trouble)| {
            trouble.pass_until(minute);
            (*agent, trouble.told())
        });
        all.collect()
    }

    fn change(&self, agent: AgentId, now: Instant, change: impl FnOnce(&mut Trouble, usize)) {
        let minute = self.minute(now);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.has_room_for(agent, minute) {
            return;
        }
        let trouble = kept.agents.entry(agent).or_insert_with(|| Trouble {
            minute,
            ..Trouble::default()
        });
        trouble.pass_until(minute);
        change(trouble, place(minute));
    }

    fn minute(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_secs() / MINUTE.as_secs()
    }
}

impl Kept {
    fn sweep(&mut self, minute: u64) {
        self.agents.retain(|_, trouble| trouble.is_recent(minute));
        self.swept = Some(minute);
    }

    fn has_room_for(&mut self, agent: AgentId, minute: u64) -> bool {
        let is_full =
            |kept: &Self| kept.agents.len() >= MAX_AGENTS && !kept.agents.contains_key(&agent);
        // Nothing becomes old within a minute.
        if is_full(self) && self.swept != Some(minute) {
            self.sweep(minute);
        }
        !is_full(self)
    }
}

impl Trouble {
    /// Forgets what is older than the minutes that are told.
    fn pass_until(&mut self, minute: u64) {
        let passed = usize::try_from(minute.saturating_sub(self.minute)).unwrap_or(MINUTES);
        for ago in (0..passed.min(MINUTES)).map(|it| it as u64) {
            let at = place(minute - ago);
            (self.refused[at], self.lost[at]) = (0, 0);
        }
        self.minute = self.minute.max(minute);
    }

    fn is_recent(&self, minute: u64) -> bool {
        minute.saturating_sub(self.minute) < MINUTES as u64 && self.has_any_until(minute)
    }

    /// Whether any of its minutes that still count had something.
    fn has_any_until(&self, minute: u64) -> bool {
        let passed = minute.saturating_sub(self.minute);
        let kept = (MINUTES as u64).saturating_sub(passed);
        let mut kept = (0..kept).map(|ago| place(self.minute.saturating_sub(ago)));
        kept.any(|at| self.refused[at] > 0 || self.lost[at] > 0)
    }

    fn told(&self) -> RecentTrouble {
        let sum = |minutes: &[u32]| minutes.iter().map(|it| u64::from(*it)).sum();
        let refused = sum(&self.refused);
        RecentTrouble {
            refused,
            refusal: match refused {
                0 => String::new(),
                _ => self.refusal.clone(),
            },
            lost: sum(&self.lost),
        }
    }
}

fn place(minute: u64) -> usize {
    // A remainder is below the number of minutes.
    usize::try_from(minute % MINUTES as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use cluster_state::{ConnectionEvent, ReplicaId};

    use super::*;

    fn record(reason: &str) -> ConnectionRecord {
        ConnectionRecord {
            reason: reason.to_owned(),
            ..ConnectionRecord::new(ConnectionEvent::Refused, 1, &ReplicaId::new("a"))
        }
    }

    #[test]
    fn what_was_wrong_is_told_for_ten_minutes() {
        let troubles = RecentTroubles::default();
        let at = |minutes| troubles.begun + minutes * MINUTE;
        troubles.refused(AgentId(1), &record("revoked"), at(1));
        troubles.refused(AgentId(1), &record("expired"), at(2));
        troubles.lost(AgentId(1), at(5));

        let told = |minutes| troubles.all(at(minutes));
        let both = RecentTrouble {
            refused: 2,
            refusal: "expired".to_owned(),
            lost: 1,
        };
        assert_eq!(told(10), [(AgentId(1), both.clone())]);
        let last = RecentTrouble { refused: 1, ..both };
        assert_eq!(told(11), [(AgentId(1), last)]);
        let lost = RecentTrouble {
            lost: 1,
            ..RecentTrouble::default()
        };
        assert_eq!(told(14), [(AgentId(1), lost)]);
        assert_eq!(told(15), []);
        assert!(troubles.kept.lock().unwrap().agents.is_empty());
    }

    #[test]
    fn of_how_many_agents_is_bounded_and_the_old_give_way() {
        let (troubles, count) = (RecentTroubles::default(), MAX_AGENTS as i64);
        let (now, later) = (troubles.begun, troubles.begun + 10 * MINUTE);
        for agent in 0..2 * count {
            troubles.lost(AgentId(agent), now);
        }
        assert_eq!(troubles.all(now).len(), MAX_AGENTS);

        troubles.lost(AgentId(-1), later);

        assert_eq!(troubles.all(later).len(), 1);
    }
}
