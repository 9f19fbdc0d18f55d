//! Remembers for a while what was answered about a token, good or bad.
//!
//! For a control plane that is asked over a network. Many who ask the same at
//! once cost one question; a good answer that is about to end is asked for
//! again in the background; and when nobody can say, a good answer goes on
//! counting for a bounded grace. A refusal always counts as soon as it is known.

mod slot;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use moka::sync::Cache;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::TokenHash;
use slot::{Lookup, Slot};

/// How long a caller with an answer in its grace waits for a newer one.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);
/// Tokens that were never good which are remembered, at most: they have a place of their own, so that
/// made-up ones drive out none that are good.
const UNKNOWN_TOKENS_MAX: u64 = 10_000;

/// Whether a token was ever good, as far as is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was, or nothing is remembered by configuration.
    Known,
    /// It was not.
    Unknown,
}

/// How long and how much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachePolicy {
    /// How long a good answer counts; zero remembers nothing at all.
    pub ttl: Duration,
    /// How long a refusal counts.
    pub error_ttl: Duration,
    /// How long after its time a good answer counts while nobody can say.
    pub grace: Duration,
    /// How many tokens at most; the least used are forgotten first.
    pub capacity: u64,
}

impl Default for CachePolicy {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(300),
            error_ttl: Duration::from_secs(60),
            grace: Duration::ZERO,
            capacity: 100_000,
        }
    }
}

/// An error of which it can be said whether it is an answer.
pub trait Retryable {
    /// Whether nobody could say, so that it is no answer.
    fn is_retryable(&self) -> bool;
}

type Question<V, E> = BoxFuture<'static, Result<V, E>>;

/// Answers by the hash of all that they depend on.
pub struct TokenCache<V, E> {
    policy: CachePolicy,
    slots: Cache<TokenHash, Arc<Slot<V, E>>>,
    unknown: Cache<TokenHash, Arc<Slot<V, E>>>,
    asking: TaskTracker,
}

impl<V, E> std::fmt::Debug for TokenCache<V, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<V, E> TokenCache<V, E>
where
    V: Clone + Send + Sync + 'static,
    E: Retryable + Clone + Send + Sync + 'static,
{
    /// An empty cache.
    #[must_use]
    pub fn new(policy: CachePolicy) -> Self {
        Self {
            policy,
            slots: Cache::builder().max_capacity(policy.capacity).build(),
            unknown: Cache::builder()
                .max_capacity(policy.capacity.min(UNKNOWN_TOKENS_MAX))
                .build(),
            asking: TaskTracker::new(),
        }
    }

    /// The remembered answer, or the one that `ask` gives, which is told whether the token was good
    /// before.
    ///
    /// A question goes on to its end, whoever stops waiting for it; it must
    /// have its own deadline.
    pub async fn get(
        &self,
        key: TokenHash,
        ask: impl FnOnce(Standing) -> Question<V, E>,
    ) -> Result<V, E> {
        if self.policy.ttl.is_zero() {
            return ask(Standing::Known).await;
        }
        if let Some(slot) = self.slots.get(&key) {
            return self.answer(&slot, || ask(Standing::Known)).await;
        }
        let slot = self.unknown.get_with(key, Arc::default);
        let answer = self.answer(&slot, || ask(Standing::Unknown)).await;
        if answer.is_ok() {
            self.slots.insert(key, slot);
            self.unknown.invalidate(&key);
        }
        answer
    }

    async fn answer(
        &self,
        slot: &Arc<Slot<V, E>>,
        ask: impl FnOnce() -> Question<V, E>,
    ) -> Result<V, E> {
        match slot.lookup(&self.policy, Instant::now()) {
            Lookup::Fresh(answer) => answer,
            Lookup::Expiring(good) => {
                // Nobody waits for it: it runs in its own task.
                drop(self.ask(slot, ask));
                Ok(good)
            }
            Lookup::Stale(good) => {
                let newer = tokio::time::timeout(REFRESH_TIMEOUT, self.ask(slot, ask)).await;
                match newer {
                    Ok(Err(error)) if error.is_retryable() => Ok(good),
                    Ok(answer) => answer,
                    Err(_) => Ok(good),
                }
            }
            Lookup::Missing => self.ask(slot, ask).await,
        }
    }

    /// The question under way, or a new one.
    fn ask(
        &self,
        slot: &Arc<Slot<V, E>>,
        ask: impl FnOnce() -> Question<V, E>,
    ) -> slot::InFlight<V, E> {
        let (in_flight, new) = slot.join(self.policy, ask);
        if new {
            self.asking.spawn(in_flight.clone());
        }
        in_flight
    }
}

#[cfg(test)]
mod tests;
