//! Whose module has its turn at GitLab: of all turns modules have half, and of these no agent more than half.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cluster_state::AgentId;
use runtime::shares::{Rate, Rates};
use tokio::time::Instant;

use super::super::{error::CallError, retry::Budget};
use crate::{config::RateLimit, token_bucket::TokenBucket};

/// Of all turns, those of modules: what is left is for tokens, users and jobs.
const MODULES_SHARE: f64 = 0.5;
/// Of these, those of one agent.
const AGENT_SHARE: f64 = 0.5;
/// Agents that are told apart; others share one rate.
const AGENTS_MAX: usize = 10_000;

/// The turns, and the retries, of modules.
#[derive(Debug)]
pub(in super::super) struct ModuleTurns {
    all: Mutex<TokenBucket>,
    agents: Rates<AgentId>,
    retries: Mutex<Budget>,
}

impl ModuleTurns {
    /// Modules' part of the turns of `limit`.
    pub(in super::super) fn new(limit: RateLimit, now: Instant) -> Self {
        let all = limit.part(MODULES_SHARE);
        let agent = all.part(AGENT_SHARE);
        let agent = Rate {
            per_second: agent.refill_rate_per_second,
            burst: agent.bucket_size,
        };
        Self {
            all: Mutex::new(TokenBucket::new(all, now)),
            agents: Rates::new(agent, AGENTS_MAX),
            retries: Mutex::default(),
        }
    }

    /// Takes a turn: how long to wait before using it.
    ///
    /// # Errors
    /// [`CallError::RateLimited`] when that would be longer than `patience`.
    pub(super) fn take(
        &self,
        agent: AgentId,
        now: Instant,
        patience: Duration,
    ) -> Result<Duration, CallError> {
        let own = self.agents.take_in_advance(&agent, now, patience);
        let own = own.ok_or(CallError::RateLimited)?;
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let common = all.take(now, patience).ok_or(CallError::RateLimited)?;
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        retries.deposit();
        Ok(own.max(common))
    }

    /// Whether there is a retry left; it is taken.
    pub(super) fn may_retry(&self) -> bool {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        retries.withdraw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_agent_that_asks_without_end_leaves_turns_to_another() {
        let now = Instant::now();
        let turns = ModuleTurns::new(RateLimit::new(40.0, 80), now);
        let at_once = |agent| {
            let turns = &turns;
            std::iter::from_fn(move || turns.take(AgentId(agent), now, Duration::ZERO).ok())
        };

        assert_eq!(at_once(1).count(), 20);
        assert_eq!(at_once(2).count(), 20);
        assert_eq!(
            turns.take(AgentId(3), now, Duration::ZERO),
            Err(CallError::RateLimited)
        );
        assert_eq!(at_once(3).count(), 0);
        assert!(
            turns.take(AgentId(4), now, SECOND).is_ok(),
            "it waits instead"
        );
    }
}
