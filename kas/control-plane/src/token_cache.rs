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
use slot::{Look, Slot};

/// How long a caller with an answer in its grace waits for a newer one.
const PATIENCE: Duration = Duration::from_secs(2);
/// Tokens that were never good which are remembered, at most: they have a place of their own, so that
/// made-up ones drive out none that are good.
const STRANGERS: u64 = 10_000;

/// Whether a token was ever good, as far as is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was, or nothing is remembered by configuration.
    Known,
    /// It was not.
    Stranger,
}

/// How long and how much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// How long a good answer counts; zero remembers nothing at all.
    pub good: Duration,
    /// How long a refusal counts.
    pub refused: Duration,
    /// How long after its time a good answer counts while nobody can say.
    pub grace: Duration,
    /// How many tokens at most; the least used are forgotten first.
    pub tokens: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            good: Duration::from_secs(300),
            refused: Duration::from_secs(60),
            grace: Duration::ZERO,
            tokens: 100_000,
        }
    }
}

/// An error of which it can be said whether it is an answer.
pub trait Refusal {
    /// Whether nobody could say, so that it is no answer.
    fn is_retryable(&self) -> bool;
}

type Question<V, E> = BoxFuture<'static, Result<V, E>>;

/// Answers by the hash of all that they depend on.
pub struct TokenCache<V, E> {
    memory: Memory,
    slots: Cache<TokenHash, Arc<Slot<V, E>>>,
    strangers: Cache<TokenHash, Arc<Slot<V, E>>>,
    asking: TaskTracker,
}

impl<V, E> std::fmt::Debug for TokenCache<V, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

impl<V, E> TokenCache<V, E>
where
    V: Clone + Send + Sync + 'static,
    E: Refusal + Clone + Send + Sync + 'static,
{
    /// An empty cache.
    #[must_use]
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            slots: Cache::builder().max_capacity(memory.tokens).build(),
            strangers: Cache::builder()
                .max_capacity(memory.tokens.min(STRANGERS))
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
        if self.memory.good.is_zero() {
            return ask(Standing::Known).await;
        }
        if let Some(slot) = self.slots.get(&key) {
            return self.answer(&slot, || ask(Standing::Known)).await;
        }
        let slot = self.strangers.get_with(key, Arc::default);
        let answer = self.answer(&slot, || ask(Standing::Stranger)).await;
        if answer.is_ok() {
            self.slots.insert(key, slot);
            self.strangers.invalidate(&key);
        }
        answer
    }

    async fn answer(
        &self,
        slot: &Arc<Slot<V, E>>,
        ask: impl FnOnce() -> Question<V, E>,
    ) -> Result<V, E> {
        match slot.look(&self.memory, Instant::now()) {
            Look::Fresh(answer) => answer,
            Look::Ending(good) => {
                // Nobody waits for it: it runs in its own task.
                drop(self.ask(slot, ask));
                Ok(good)
            }
            Look::Grace(good) => {
                let newer = tokio::time::timeout(PATIENCE, self.ask(slot, ask)).await;
                match newer {
                    Ok(Err(error)) if error.is_retryable() => Ok(good),
                    Ok(answer) => answer,
                    Err(_) => Ok(good),
                }
            }
            Look::Nothing => self.ask(slot, ask).await,
        }
    }

    /// The question under way, or a new one.
    fn ask(
        &self,
        slot: &Arc<Slot<V, E>>,
        ask: impl FnOnce() -> Question<V, E>,
    ) -> slot::Flight<V, E> {
        let (flight, new) = slot.join(self.memory, ask);
        if new {
            self.asking.spawn(flight.clone());
        }
        flight
    }
}

#[cfg(test)]
mod tests;
