//! Tells the store what agents say of themselves, and reads what all replicas
//! were told. Apart from the writer, so that neither waits for the other.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    Inner, TOO_LATE,
    exchange::{self, BATCH, Next, Outbox, within_budget},
};
use crate::{
    id::ReplicaId,
    presence::{Presence, Telling, Told, Wanted},
    store::StoreError,
};

/// How long somebody who asks waits for the store.
const PATIENCE: Duration = Duration::from_secs(4);

/// Tells what is due, for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    exchange::run(Teller(inner)).await;
}

struct Teller(Arc<Inner>);

impl Outbox for Teller {
    type Change = Telling;

    fn woken(&self) -> &Notify {
        &self.0.tell
    }

    fn next(&self) -> Next<Telling> {
        let now = Instant::now();
        let state = &mut *self.0.lock();
        let due = state.roll.next_due();
        within_budget(
            state,
            due,
            now,
            |state| state.roll.commands_due(BATCH, now),
            |state, granted| state.roll.take(BATCH, granted, now),
        )
    }

    async fn send(&self, tellings: &[Telling]) -> bool {
        tell(&self.0, tellings).await
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
    let mut all = read.unwrap_or_else(|_| Err(StoreError(TOO_LATE.into())))?;
    all.retain(|told| told.replica != *me);
    all.extend(own(inner, wanted));
    Ok(all)
}

/// What this replica tells itself, told to the store or not.
fn own(inner: &Inner, wanted: &Wanted) -> Vec<Told> {
    let told = |replica: &ReplicaId, (agent, presence): (_, &Presence)| Told {
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

/// Says whether it was taken.
async fn tell(inner: &Inner, tellings: &[Telling]) -> bool {
    let told = inner.store.tell(&inner.me.replica, tellings);
    let told = inner.in_time(told).await;
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
