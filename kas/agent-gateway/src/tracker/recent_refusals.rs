//! What was refused of agents lately, for operators who listen at any replica: a bounded number, each with a place in
//! their order, so that any number of listeners may ask for what came after the last that they know.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cluster_state::{AgentId, ConnectionRecord};
use tokio::time::Instant;

use super::refusals::{Refusal, Refusals};

/// How often the same is told again.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Refusals that are kept for those who have not asked yet.
const KEPT: usize = 1000;
/// Refusals of one answer.
const TOLD: usize = 250;

/// The refusals of the last while. Nothing is kept before somebody has asked.
#[derive(Debug)]
pub(super) struct RecentRefusals {
    new: Refusals,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    refusals: VecDeque<Refusal>,
    /// How many there were before the last one that is kept, and that one.
    last: u64,
}

impl Default for RecentRefusals {
    fn default() -> Self {
        Self {
            new: Refusals::repeated_after(REPEAT_INTERVAL),
            kept: Mutex::default(),
        }
    }
}

impl RecentRefusals {
    /// An agent was refused.
    pub(super) fn note(&self, agent: AgentId, record: &ConnectionRecord) {
        self.new.note(agent, record);
    }

    /// What came after a place, and the place of the last that is told; without one, none and the last place.
    pub(super) fn after(&self, place: Option<u64>, now: Instant) -> (Vec<Refusal>, u64) {
        self.new.want();
        let new = self.new.take(now);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for refusal in new {
            if kept.refusals.len() >= KEPT {
                kept.refusals.pop_front();
            }
            kept.refusals.push_back(refusal);
            kept.last += 1;
        }
        let Some(place) = place else {
            return (Vec::new(), kept.last);
        };
        let first = kept.last - kept.refusals.len() as u64;
        let known = place.clamp(first, kept.last) - first;
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        let told: Vec<_> = kept
            .refusals
            .iter()
            .skip(known)
            .take(TOLD)
            .cloned()
            .collect();
        let last = first + (known + told.len()) as u64;
        (told, last)
    }
}

#[cfg(test)]
mod tests {
    use cluster_state::{ConnectionEvent, ReplicaId};

    use super::*;

    fn record() -> ConnectionRecord {
        ConnectionRecord {
            reason: "revoked".to_owned(),
            ..ConnectionRecord::new(ConnectionEvent::Refused, 1, &ReplicaId::new("a"))
        }
    }

    #[test]
    fn all_who_listen_are_told_what_came_since_and_a_storm_is_one() {
        let (recent, now) = (RecentRefusals::default(), Instant::now());
        recent.note(AgentId(1), &record());
        let (told, first) = recent.after(None, now);
        assert!(told.is_empty(), "nobody had asked");

        for _ in 0..1000 {
            recent.note(AgentId(1), &record());
        }
        recent.note(AgentId(2), &record());
        for _ in 0..2 {
            let (mut told, last) = recent.after(Some(first), now);
            told.sort_by_key(|it| it.agent);
            let told: Vec<_> = told.into_iter().map(|it| (it.agent.0, it.count)).collect();
            assert_eq!((&told[..], last), (&[(1, 1000), (2, 1)][..], first + 2));
            assert_eq!(recent.after(Some(last), now), (Vec::new(), last));
        }
        recent.note(AgentId(1), &record());
        assert!(recent.after(Some(first + 2), now).0.is_empty(), "too soon");
        let later = now + REPEAT_INTERVAL;
        assert_eq!(recent.after(Some(first + 2), later).0.len(), 1);
    }

    #[test]
    fn what_is_kept_and_told_at_once_is_bounded() {
        let (recent, now) = (RecentRefusals::default(), Instant::now());
        let (_, first) = recent.after(None, now);
        for agent in 0..3 * KEPT {
            recent.note(AgentId(agent as i64), &record());
        }

        let (mut place, mut all) = (first, 0);
        loop {
            let (told, last) = recent.after(Some(place), now);
            if told.is_empty() {
                break;
            }
            assert!(told.len() <= TOLD);
            (place, all) = (last, all + told.len());
        }

        assert_eq!((all, place), (KEPT, first + 3 * KEPT as u64));
        assert_eq!(recent.after(Some(u64::MAX), now), (Vec::new(), place));
    }
}
