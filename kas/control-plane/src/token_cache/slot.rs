//! What is known of one token, and the question about it that is under way.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::time::Instant;

use super::{CachePolicy, Retryable};

/// A question that several wait for.
pub(super) type InFlight<V, E> = Shared<Pin<Box<dyn Future<Output = Result<V, E>> + Send>>>;

/// One token's place.
#[derive(Debug)]
pub(super) struct Slot<V, E>(Mutex<State<V, E>>);

struct State<V, E> {
    last: Option<Answer<V, E>>,
    in_flight: Option<InFlight<V, E>>,
}

struct Answer<V, E> {
    result: Result<V, E>,
    /// When it was asked for: what changed later is not in it.
    asked: Instant,
}

/// What a slot holds for now.
pub(super) enum Lookup<V, E> {
    /// An answer that counts.
    Fresh(Result<V, E>),
    /// A good one that counts, but not for long.
    Expiring(V),
    /// A good one that only counts if nobody can say.
    Stale(V),
    /// Nothing.
    Missing,
}

impl<V, E> Default for Slot<V, E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<V, E> Default for State<V, E> {
    fn default() -> Self {
        Self {
            last: None,
            in_flight: None,
        }
    }
}

impl<V, E> std::fmt::Debug for State<V, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl<V, E> Slot<V, E>
where
    V: Clone + Send + Sync + 'static,
    E: Retryable + Clone + Send + Sync + 'static,
{
    pub(super) fn lookup(&self, policy: &CachePolicy, now: Instant) -> Lookup<V, E> {
        let state = self.state();
        let Some(last) = &state.last else {
            return Lookup::Missing;
        };
        let age = now.saturating_duration_since(last.asked);
        match &last.result {
            Ok(good) if age >= policy.ttl => {
                if age - policy.ttl < policy.grace {
                    Lookup::Stale(good.clone())
                } else {
                    Lookup::Missing
                }
            }
            Ok(good) if age >= refresh_age(policy.ttl) => Lookup::Expiring(good.clone()),
            Err(_) if age >= policy.error_ttl => Lookup::Missing,
            result => Lookup::Fresh(result.clone()),
        }
    }

    /// The question under way, or `ask` made into one; says whether it is new.
    pub(super) fn join(
        self: &Arc<Self>,
        policy: CachePolicy,
        ask: impl FnOnce() -> BoxFuture<'static, Result<V, E>>,
    ) -> (InFlight<V, E>, bool) {
        let mut state = self.state();
        if let Some(in_flight) = &state.in_flight {
            return (in_flight.clone(), false);
        }
        let (slot, question, asked) = (self.clone(), ask(), Instant::now());
        let in_flight: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            let result = question.await;
            slot.store(&policy, asked, result.clone());
            result
        });
        let in_flight = in_flight.shared();
        state.in_flight = Some(in_flight.clone());
        (in_flight, true)
    }

    /// Keeps an answer; a failure to ask leaves what was there, within its grace.
    fn store(&self, policy: &CachePolicy, asked: Instant, result: Result<V, E>) {
        let mut state = self.state();
        state.in_flight = None;
        if !matches!(&result, Err(error) if error.is_retryable()) {
            state.last = Some(Answer { result, asked });
            return;
        }
        let over = policy.ttl + policy.grace;
        if state
            .last
            .as_ref()
            .is_some_and(|it| it.asked.elapsed() >= over)
        {
            state.last = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State<V, E>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The age from which a good answer is asked for again while it still counts.
fn refresh_age(good: Duration) -> Duration {
    good / 10 * 9
}
