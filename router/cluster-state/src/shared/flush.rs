//! Flushes an outbox to the store: changes that are due, in batches, within the
//! budget, and again after a failure.

use std::{future::Future, time::Duration};

use runtime::backoff::Backoff;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::State;

/// Changes in one round trip.
pub(super) const MAX_BATCH: usize = 256;
/// The wait after a failed flush.
const RETRY_BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(100), Duration::from_secs(2), 2.0);

/// Takes changes from an outbox and writes them to the store.
pub(super) trait Writer {
    /// A change.
    type Change: Send + Sync;

    /// Notified when there is a new change.
    fn woken(&self) -> &Notify;

    /// What to do next.
    fn next(&self) -> Next<Self::Change>;

    /// Writes the changes; `false` if that failed and they are due again.
    fn write(&self, changes: &[Self::Change]) -> impl Future<Output = bool> + Send;
}

/// What to do next.
pub(super) enum Next<C> {
    Write(Vec<C>),
    /// Nothing before this time.
    Wait(Instant),
    /// Nothing until there is a change.
    Idle,
}

/// Writes what is due, for ever.
pub(super) async fn run(writer: impl Writer) {
    let mut backoff = RETRY_BACKOFF;
    loop {
        match writer.next() {
            Next::Write(changes) => {
                if writer.write(&changes).await {
                    backoff.reset();
                } else {
                    sleep(backoff.next(1.0)).await;
                }
            }
            Next::Wait(until) => tokio::select! {
                biased;
                () = sleep_until(until) => {}
                () = writer.woken().notified() => {}
            },
            Next::Idle => writer.woken().notified().await,
        }
    }
}

/// What to do when something is due at `due`: `wanted` is the number of
/// operations that it takes, and `take` takes what the budget allows.
pub(super) fn within_budget<C>(
    state: &mut State,
    due: Option<Instant>,
    now: Instant,
    wanted: impl FnOnce(&State) -> usize,
    take: impl FnOnce(&mut State, usize) -> Vec<C>,
) -> Next<C> {
    let Some(due) = due else {
        return Next::Idle;
    };
    if due > now {
        return Next::Wait(due);
    }
    let wanted = wanted(state);
    let granted = state.budget.take(wanted, now);
    if granted == 0 {
        return Next::Wait(now + state.budget.wait(now).max(Duration::from_millis(1)));
    }
    Next::Write(take(state, granted))
}
