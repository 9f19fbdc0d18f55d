//! The last errors of requests for each agent, for whoever operates this server.
//!
//! A few are kept of each of a bounded number of agents, with texts of a bounded length: about 5 MiB where all fail.
//! Requests that do not fail cost nothing here.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use foldhash::fast::RandomState;
use router::AgentId;

/// Errors of one agent.
const PER_AGENT: usize = 10;
/// Agents with errors.
const MAX_AGENTS: usize = 500;
/// Bytes of a path, and of a reason.
const MAX_TEXT_BYTES: usize = 256;
/// Bytes of a caller's name, and of a request's id.
const MAX_NAME_BYTES: usize = 128;
/// Bytes of a method, which may be any word of the caller's.
const MAX_VERB_BYTES: usize = 32;

/// A request that ended with a status of 500 or more, or without a whole answer for a reason that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentError {
    /// When it ended.
    pub at: SystemTime,
    /// The status of its answer; 0 if there was none.
    pub status: u16,
    /// Whether its answer ended before it was whole.
    pub cut: bool,
    /// Its method, or `WATCH`.
    pub verb: String,
    /// Its path, without the query, cut.
    pub path: String,
    /// Why, cut; empty where the cluster answered so.
    pub reason: String,
    /// Who asked, as in `user:alice`.
    pub caller: String,
    /// Its id, as in logs.
    pub id: String,
    /// How many like it ended just before it, and are not kept.
    pub left_out: u64,
}

impl RecentError {
    fn bounded(mut self) -> Self {
        let texts = [
            (&mut self.verb, MAX_VERB_BYTES),
            (&mut self.path, MAX_TEXT_BYTES),
            (&mut self.reason, MAX_TEXT_BYTES),
            (&mut self.caller, MAX_NAME_BYTES),
            (&mut self.id, MAX_NAME_BYTES),
        ];
        for (text, bytes) in texts {
            text.truncate(text.floor_char_boundary(bytes));
            text.shrink_to_fit();
        }
        self
    }

    fn is_like(&self, other: &Self) -> bool {
        (self.status, self.cut) == (other.status, other.cut)
            && self.verb == other.verb
            && self.path == other.path
            && self.reason == other.reason
            && self.caller == other.caller
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct RecentErrors(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    agents: HashMap<AgentId, VecDeque<RecentError>, RandomState>,
    /// In the order in which they came to be kept, which is the one in which they give way.
    order: VecDeque<AgentId>,
}

impl RecentErrors {
    /// A request for an agent failed.
    pub(crate) fn note(&self, agent: AgentId, error: RecentError) {
        let error = error.bounded();
        let mut kept = self.lock();
        if !kept.agents.contains_key(&agent) {
            if kept.order.len() >= MAX_AGENTS
                && let Some(first) = kept.order.pop_front()
            {
                kept.agents.remove(&first);
            }
            kept.order.push_back(agent);
        }
        let errors = kept.agents.entry(agent).or_default();
        match errors.back_mut() {
            Some(last) if last.is_like(&error) => {
                let left_out = last.left_out.saturating_add(1);
                *last = RecentError { left_out, ..error };
            }
            Some(_) | None => {
                if errors.len() >= PER_AGENT {
                    errors.pop_front();
                }
                errors.push_back(error);
            }
        }
    }

    /// Those of an agent, the newest first.
    pub(crate) fn of(&self, agent: AgentId) -> Vec<RecentError> {
        let kept = self.lock();
        let errors = kept.agents.get(&agent);
        errors.map_or_else(Vec::new, |it| it.iter().rev().cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &str) -> RecentError {
        RecentError {
            at: SystemTime::UNIX_EPOCH,
            status: 503,
            cut: false,
            verb: "GET".to_owned(),
            path: path.to_owned(),
            reason: "no tunnel".to_owned(),
            caller: "user:ana".to_owned(),
            id: "1".to_owned(),
            left_out: 0,
        }
    }

    #[test]
    fn the_last_few_of_an_agent_are_kept_and_the_same_is_counted() {
        let errors = RecentErrors::default();
        for number in 0..20 {
            errors.note(AgentId(1), error(&format!("/{number}")));
        }
        for _ in 0..1000 {
            errors.note(AgentId(1), error("/again"));
        }

        let kept = errors.of(AgentId(1));

        let told: Vec<_> = kept.iter().map(|it| (&*it.path, it.left_out)).collect();
        assert_eq!(told.len(), PER_AGENT);
        assert_eq!(told[..2], [("/again", 999), ("/19", 0)]);
        assert_eq!(errors.of(AgentId(2)), []);
    }

    #[test]
    fn agents_and_texts_are_bounded() {
        let errors = RecentErrors::default();
        let agents = i64::try_from(MAX_AGENTS).unwrap();
        for agent in 0..2 * agents {
            let verb = "V".repeat(10_000);
            let error = error(&"ä".repeat(10_000));
            errors.note(AgentId(agent), RecentError { verb, ..error });
        }

        let kept = errors.lock();
        assert_eq!(
            (kept.agents.len(), kept.order.len()),
            (MAX_AGENTS, MAX_AGENTS)
        );
        drop(kept);
        assert_eq!(errors.of(AgentId(0)), [], "the first gave way");
        let last = errors.of(AgentId(2 * agents - 1));
        let lengths = (last[0].path.len(), last[0].verb.len());
        assert_eq!(lengths, (MAX_TEXT_BYTES, MAX_VERB_BYTES));
    }
}
