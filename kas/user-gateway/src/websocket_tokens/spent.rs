//! Tokens that were used: each is valid once.
//!
//! Replicas that share a store remember together. Where there is none, or it does not answer, each replica
//! remembers by itself: a token is valid once at each then, for the seconds that it lives.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cluster_state::OneTimeClaims;
use runtime::{
    shares::{Limits, Share, Shares},
    telemetry::Repeats,
};
use tokio::time::Instant;

/// How long it is remembered that a token was used: longer than any is good, with what clocks may differ.
const SPENT_TTL: Duration = Duration::from_secs(30);
/// Tokens that are remembered, by whose they are.
const REMEMBERED: Limits = Limits {
    total: 10_000,
    each: 1_000,
    reserved: 1_000,
};

/// A token that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpendError {
    /// It was used before.
    #[error("it was used already")]
    Used,
    /// The user has used so many that no more can be remembered.
    #[error("too many were used lately, try again later")]
    TooMany,
}

/// Remembers which tokens were used.
#[derive(Debug)]
pub(crate) struct SpentTokens {
    shares: Shares<i64>,
    here: Mutex<Here>,
    everywhere: Option<Arc<dyn OneTimeClaims>>,
}

#[derive(Debug, Default)]
struct Here {
    by_id: HashMap<String, Share<i64>>,
    oldest_first: VecDeque<(Instant, String)>,
}

impl SpentTokens {
    /// Nothing yet. `everywhere` is what replicas share.
    pub(crate) fn new(everywhere: Option<Arc<dyn OneTimeClaims>>) -> Self {
        Self {
            shares: Shares::new(REMEMBERED),
            here: Mutex::default(),
            everywhere,
        }
    }

    /// Notes that a token of this user is used, whose `id` is its own.
    ///
    /// # Errors
    /// When it was used before, or too many were.
    pub(crate) async fn spend(&self, id: &str, user: i64) -> Result<(), SpendError> {
        self.spend_here(id, user, Instant::now())?;
        let Some(everywhere) = &self.everywhere else {
            return Ok(());
        };
        match everywhere.claim(id, SPENT_TTL).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(SpendError::Used),
            Err(error) => {
                static UNKNOWN: Repeats = Repeats::new(
                    "routing store unavailable; WebSocket token accepted without a check for reuse at other replicas",
                );
                if UNKNOWN.admit() {
                    tracing::warn!(%error, "routing store unavailable; WebSocket token accepted without a check for reuse at other replicas");
                }
                Ok(())
            }
        }
    }

    fn spend_here(&self, id: &str, user: i64, now: Instant) -> Result<(), SpendError> {
        let mut here = self.lock();
        here.forget(now);
        if here.by_id.contains_key(id) {
            return Err(SpendError::Used);
        }
        let share = self.shares.take(user, 1).map_err(|_| SpendError::TooMany)?;
        here.by_id.insert(id.to_owned(), share);
        here.oldest_first
            .push_back((now + SPENT_TTL, id.to_owned()));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Here {
    fn forget(&mut self, now: Instant) {
        while let Some((until, id)) = self.oldest_first.front()
            && *until <= now
        {
            self.by_id.remove(id);
            self.oldest_first.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_once_and_is_forgotten_when_it_is_old() {
        let spent = SpentTokens::new(None);

        assert_eq!(spent.spend("a", 1).await, Ok(()));
        assert_eq!(spent.spend("a", 1).await, Err(SpendError::Used));
        assert_eq!(spent.spend("b", 1).await, Ok(()));

        tokio::time::advance(SPENT_TTL).await;
        assert_eq!(spent.spend("c", 1).await, Ok(()));
        assert_eq!(spent.lock().by_id.len(), 1);
        assert_eq!(spent.lock().oldest_first.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_user_cannot_have_all_that_is_remembered() {
        let spent = SpentTokens::new(None);

        for number in 0..REMEMBERED.each {
            assert_eq!(spent.spend(&number.to_string(), 1).await, Ok(()));
        }

        assert_eq!(spent.spend("more", 1).await, Err(SpendError::TooMany));
        assert_eq!(spent.spend("another's", 2).await, Ok(()));
        tokio::time::advance(SPENT_TTL).await;
        assert_eq!(spent.spend("more", 1).await, Ok(()));
    }
}
