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

use super::{Memory, Refusal};

/// A question that several wait for.
pub(super) type Flight<V, E> = Shared<Pin<Box<dyn Future<Output = Result<V, E>> + Send>>>;

/// One token's place.
#[derive(Debug)]
pub(super) struct Slot<V, E>(Mutex<State<V, E>>);

struct State<V, E> {
    last: Option<Answer<V, E>>,
    flight: Option<Flight<V, E>>,
}

struct Answer<V, E> {
    result: Result<V, E>,
    /// When it was asked for: what changed later is not in it.
    asked: Instant,
}

/// What a slot has to offer.
pub(super) enum Look<V, E> {
    /// An answer that counts.
    Fresh(Result<V, E>),
    /// A good one that counts, but not for long.
    Ending(V),
    /// A good one that only counts if nobody can say.
    Grace(V),
    /// Nothing.
    Nothing,
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
            flight: None,
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
    E: Refusal + Clone + Send + Sync + 'static,
{
    pub(super) fn look(&self, memory: &Memory, now: Instant) -> Look<V, E> {
        let state = self.state();
        let Some(last) = &state.last else {
            return Look::Nothing;
        };
        let age = now.saturating_duration_since(last.asked);
        match &last.result {
            Ok(good) if age >= memory.good => {
                if age - memory.good < memory.grace {
                    Look::Grace(good.clone())
                } else {
                    Look::Nothing
                }
            }
            Ok(good) if age >= ending(memory.good) => Look::Ending(good.clone()),
            Err(_) if age >= memory.refused => Look::Nothing,
            result => Look::Fresh(result.clone()),
        }
    }

    /// The question under way, or `ask` made into one; says whether it is new.
    pub(super) fn join(
        self: &Arc<Self>,
        memory: Memory,
        ask: impl FnOnce() -> BoxFuture<'static, Result<V, E>>,
    ) -> (Flight<V, E>, bool) {
        let mut state = self.state();
        if let Some(flight) = &state.flight {
            return (flight.clone(), false);
        }
        let (slot, question, asked) = (self.clone(), ask(), Instant::now());
        let flight: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            let result = question.await;
            slot.landed(&memory, asked, result.clone());
            result
        });
        let flight = flight.shared();
        state.flight = Some(flight.clone());
        (flight, true)
    }

    /// Keeps an answer; a failure to ask leaves what was there, within its grace.
    fn landed(&self, memory: &Memory, asked: Instant, result: Result<V, E>) {
        let mut state = self.state();
        state.flight = None;
        if !matches!(&result, Err(error) if error.is_retryable()) {
            state.last = Some(Answer { result, asked });
            return;
        }
        let over = memory.good + memory.grace;
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
fn ending(good: Duration) -> Duration {
    good / 10 * 9
}
