//! Tokens that were used: each is good once.
//!
//! Replicas that share a store remember together. Where there is none, or it does not answer, each replica
//! remembers by itself: a token is good once at each then, for the seconds that it lives.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cluster_state::redis::Once;
use runtime::{
    shares::{Limits, Share, Shares},
    telemetry::Repeats,
};
use tokio::time::Instant;

/// How long it is remembered that a token was used: longer than any is good, with what clocks may differ.
const TTL: Duration = Duration::from_secs(30);
/// Tokens that are remembered, by whose they are.
const REMEMBERED: Limits = Limits {
    total: 10_000,
    each: 1_000,
    reserved: 1_000,
};
const USED: &str = "WebSocket token: it was used already";
const TOO_MANY: &str = "WebSocket token: too many were used lately, try again later";

/// Remembers.
#[derive(Debug)]
pub(super) struct Used {
    shares: Shares<i64>,
    here: Mutex<Here>,
    everywhere: Option<Once>,
}

#[derive(Debug, Default)]
struct Here {
    by_id: HashMap<String, Share<i64>>,
    oldest_first: VecDeque<(Instant, String)>,
}

impl Used {
    /// Nothing yet. `everywhere` is what replicas share.
    pub(super) fn new(everywhere: Option<Once>) -> Self {
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
    pub(super) async fn note(&self, id: &str, user: i64) -> Result<(), &'static str> {
        self.note_here(id, user, Instant::now())?;
        let Some(everywhere) = &self.everywhere else {
            return Ok(());
        };
        // Boxed: it is large, and each request would carry its room.
        match Box::pin(everywhere.first(id, TTL)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(USED),
            Err(error) => {
                static UNKNOWN: Repeats = Repeats::new("a WebSocket token may be used elsewhere");
                if UNKNOWN.admit() {
                    tracing::warn!(%error, "whether a WebSocket token was used at another replica is not known; it is let in");
                }
                Ok(())
            }
        }
    }

    fn note_here(&self, id: &str, user: i64, now: Instant) -> Result<(), &'static str> {
        let mut here = self.lock();
        here.forget(now);
        if here.by_id.contains_key(id) {
            return Err(USED);
        }
        let share = self.shares.take(user, 1).map_err(|_| TOO_MANY)?;
        here.by_id.insert(id.to_owned(), share);
        here.oldest_first.push_back((now + TTL, id.to_owned()));
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
        let used = Used::new(None);

        assert_eq!(used.note("a", 1).await, Ok(()));
        assert_eq!(used.note("a", 1).await, Err(USED));
        assert_eq!(used.note("b", 1).await, Ok(()));

        tokio::time::advance(TTL).await;
        assert_eq!(used.note("c", 1).await, Ok(()));
        assert_eq!(used.lock().by_id.len(), 1);
        assert_eq!(used.lock().oldest_first.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_user_cannot_have_all_that_is_remembered() {
        let used = Used::new(None);

        for number in 0..REMEMBERED.each {
            assert_eq!(used.note(&number.to_string(), 1).await, Ok(()));
        }

        assert_eq!(used.note("more", 1).await, Err(TOO_MANY));
        assert_eq!(used.note("another's", 2).await, Ok(()));
        tokio::time::advance(TTL).await;
        assert_eq!(used.note("more", 1).await, Ok(()));
    }
}
