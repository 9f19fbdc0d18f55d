//! Remembers for a while what was answered about a token, good or bad.

use std::{future::Future, time::Duration};

use moka::future::Cache;
use tokio::time::Instant;

use super::TokenHash;

/// How long and how much is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// How long a good answer counts; zero remembers nothing at all.
    pub good: Duration,
    /// How long a refusal counts.
    pub refused: Duration,
    /// How many tokens at most; the least used are forgotten first.
    pub tokens: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            good: Duration::from_secs(300),
            refused: Duration::from_secs(60),
            tokens: 100_000,
        }
    }
}

/// Answers by token. Only hashes of tokens are kept.
pub struct TokenCache<V, E> {
    memory: Memory,
    answers: Cache<(u64, TokenHash), Answer<V, E>>,
}

#[derive(Clone)]
struct Answer<V, E> {
    result: Result<V, E>,
    until: Instant,
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
    E: Clone + Send + Sync + 'static,
{
    /// An empty cache.
    #[must_use]
    pub fn new(memory: Memory) -> Self {
        let answers = Cache::builder().max_capacity(memory.tokens).build();
        Self { memory, answers }
    }

    /// The remembered answer, or the one that `ask` gives.
    ///
    /// `revision` is part of the key, so that an answer from before a change is
    /// never given after it, not even one that was under way meanwhile. Errors
    /// that `worth_keeping` refuses are shared by those who wait, not remembered.
    pub async fn get(
        &self,
        revision: u64,
        token: TokenHash,
        ask: impl Future<Output = Result<V, E>>,
        worth_keeping: impl FnOnce(&E) -> bool,
    ) -> Result<V, E> {
        if self.memory.good.is_zero() {
            return ask.await;
        }
        let remember = async {
            let result = ask.await;
            let lifetime = match &result {
                Ok(_) => self.memory.good,
                Err(error) if worth_keeping(error) => self.memory.refused,
                Err(_) => Duration::ZERO,
            };
            Answer {
                result,
                until: Instant::now() + lifetime,
            }
        };
        let entry = self.answers.entry((revision, token));
        let stale = |answer: &Answer<V, E>| answer.until <= Instant::now();
        let answer = entry.or_insert_with_if(remember, stale).await;
        answer.into_value().result
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct Fixture {
        cache: TokenCache<u32, &'static str>,
        asked: Cell<u32>,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                cache: TokenCache::new(Memory {
                    good: Duration::from_secs(300),
                    refused: Duration::from_secs(60),
                    tokens: 10,
                }),
                asked: Cell::new(0),
            }
        }

        async fn get(
            &self,
            revision: u64,
            answer: Result<u32, &'static str>,
        ) -> Result<u32, &'static str> {
            let ask = async {
                self.asked.set(self.asked.get() + 1);
                answer
            };
            let token = TokenHash::new([0; 32]);
            self.cache
                .get(revision, token, ask, |error| *error != "away")
                .await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_answer_is_remembered_for_its_time() {
        let fixture = Fixture::new();

        assert_eq!(fixture.get(0, Ok(1)).await, Ok(1));
        assert_eq!(fixture.get(0, Ok(2)).await, Ok(1));
        tokio::time::advance(Duration::from_secs(301)).await;
        assert_eq!(fixture.get(0, Ok(3)).await, Ok(3));
        assert_eq!(fixture.asked.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_remembered_for_less_long() {
        let fixture = Fixture::new();

        assert_eq!(fixture.get(0, Err("no")).await, Err("no"));
        assert_eq!(fixture.get(0, Ok(1)).await, Err("no"));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(fixture.get(0, Ok(1)).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_to_ask_is_not_remembered() {
        let fixture = Fixture::new();

        assert_eq!(fixture.get(0, Err("away")).await, Err("away"));
        assert_eq!(fixture.get(0, Ok(1)).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_revision_asks_again() {
        let fixture = Fixture::new();

        assert_eq!(fixture.get(0, Ok(1)).await, Ok(1));
        assert_eq!(fixture.get(1, Err("no")).await, Err("no"));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_share_one_question() {
        let fixture = Fixture::new();

        let (one, two) = tokio::join!(fixture.get(0, Ok(1)), fixture.get(0, Ok(2)));

        assert_eq!((one, two), (Ok(1), Ok(1)));
        assert_eq!(fixture.asked.get(), 1);
    }
}
