//! Brings changes to the store: those that are due, in batches, within the
//! budget, and again when the store did not take them.

use std::{future::Future, time::Duration};

use runtime::backoff::Backoff;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::State;

/// Changes in one exchange.
pub(super) const BATCH: usize = 256;
/// How long a failed exchange is waited after.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2), 2.0);

/// Changes that the store is to be told.
pub(super) trait Outbox {
    /// One of them.
    type Change: Send + Sync;

    /// Woken when there is a new one.
    fn woken(&self) -> &Notify;

    /// What to do next.
    fn next(&self) -> Next<Self::Change>;

    /// Says whether the store has taken these.
    fn send(&self, changes: &[Self::Change]) -> impl Future<Output = bool> + Send;
}

/// What to do next.
pub(super) enum Next<C> {
    Send(Vec<C>),
    /// Nothing before this time.
    Wait(Instant),
    /// Nothing until there is a change.
    Rest,
}

/// Sends what is due, for ever.
pub(super) async fn run(outbox: impl Outbox) {
    let mut retry = RETRY;
    loop {
        match outbox.next() {
            Next::Send(changes) => {
                if outbox.send(&changes).await {
                    retry.reset();
                } else {
                    sleep(retry.next(1.0)).await;
                }
            }
            Next::Wait(until) => tokio::select! {
                biased;
                () = sleep_until(until) => {}
                () = outbox.woken().notified() => {}
            },
            Next::Rest => outbox.woken().notified().await,
        }
    }
}

/// What to do when something is due at `due`: `wanted` says how many operations
/// it takes, and `take` takes what the budget allows.
pub(super) fn within_budget<C>(
    state: &mut State,
    due: Option<Instant>,
    now: Instant,
    wanted: impl FnOnce(&State) -> usize,
    take: impl FnOnce(&mut State, usize) -> Vec<C>,
) -> Next<C> {
    let Some(due) = due else {
        return Next::Rest;
    };
    if due > now {
        return Next::Wait(due);
    }
    let wanted = wanted(state);
    let granted = state.budget.take(wanted, now);
    if granted == 0 {
        return Next::Wait(now + state.budget.wait(now).max(Duration::from_millis(1)));
    }
    Next::Send(take(state, granted))
}
