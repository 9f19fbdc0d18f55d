//! Tells the store what agents say of themselves, and reads what all replicas
//! were told. Apart from the writer, so that neither waits for the other.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Inner;
use crate::{
    id::ReplicaId,
    store::StoreError,
    table::presence::{Telling, Told, Wanted},
};

/// Changes in one exchange.
const BATCH: usize = 256;
/// How long a failed exchange is waited after, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long somebody who asks waits for the store.
const PATIENCE: Duration = Duration::from_secs(4);

/// What to do next.
enum Next {
    Tell(Vec<Telling>),
    /// Nothing before this time.
    Wait(Instant),
    /// Nothing until there is a change.
    Rest,
}

/// Tells what is due, for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut retry = RETRY.0;
    loop {
        match next(&inner) {
            Next::Tell(tellings) => {
                if tell(&inner, &tellings).await {
                    retry = RETRY.0;
                } else {
                    sleep(retry).await;
                    retry = (retry * 2).min(RETRY.1);
                }
            }
            Next::Wait(until) => tokio::select! {
                biased;
                () = sleep_until(until) => {}
                () = inner.tell.notified() => {}
            },
            Next::Rest => inner.tell.notified().await,
        }
    }
}

/// What is told of those who are wanted, by all replicas that may live.
pub(super) async fn told(inner: &Inner, wanted: &Wanted) -> Result<Vec<Told>, StoreError> {
    let me = &inner.me.replica;
    let replicas: Vec<_> = {
        let state = inner.lock();
        let others = state.membership.leases().map(|lease| &lease.replica);
        // Its own too, so that a store that is away is noticed by one alone.
        others.chain([me]).cloned().collect()
    };
    let read = timeout(PATIENCE, inner.store.told(&replicas, wanted)).await;
    let mut all = read.unwrap_or_else(|_| Err(StoreError("it did not answer in time".into())))?;
    all.retain(|told| told.replica != *me);
    all.extend(own(inner, wanted));
    Ok(all)
}

/// What this replica tells itself, told to the store or not.
fn own(inner: &Inner, wanted: &Wanted) -> Vec<Told> {
    let told = |replica: &ReplicaId, (agent, presence): (_, &crate::table::Presence)| Told {
        replica: replica.clone(),
        agent,
        presence: presence.clone(),
    };
    let state = inner.lock();
    let all = state.roll.told();
    all.filter(|(agent, presence)| wanted.includes(*agent, presence.group))
        .map(|one| told(&inner.me.replica, one))
        .collect()
}

fn next(inner: &Inner) -> Next {
    let now = Instant::now();
    let mut state = inner.lock();
    match state.roll.next_due() {
        None => Next::Rest,
        Some(due) if due > now => Next::Wait(due),
        Some(_) => {
            let wanted = state.roll.count_due(BATCH, now);
            let granted = state.budget.take(wanted, now);
            if granted == 0 {
                return Next::Wait(now + state.budget.wait(now).max(Duration::from_millis(1)));
            }
            Next::Tell(state.roll.take(granted, now))
        }
    }
}

/// Says whether it was taken.
async fn tell(inner: &Inner, tellings: &[Telling]) -> bool {
    let told = timeout(
        inner.settings.operation,
        inner.store.tell(&inner.me.replica, tellings),
    )
    .await;
    let told = told.unwrap_or_else(|_| Err(StoreError("it did not answer in time".into())));
    let mut state = inner.lock();
    match told {
        Ok(()) => {
            state.roll.written(tellings);
            true
        }
        Err(error) => {
            tracing::debug!(%error, agents = tellings.len(), "presence could not be written");
            state.roll.failed(tellings, Instant::now());
            false
        }
    }
}
