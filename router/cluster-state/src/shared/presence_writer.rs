//! Writes this replica's presence to the store, and reads that of all
//! replicas. Apart from the route writer, so that neither waits for the other.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    Inner,
    flush::{self, MAX_BATCH, Next, Writer, within_budget},
};
use crate::{
    presence::{PresenceEntry, PresenceQuery, PresenceUpdate},
    store::StoreError,
};

/// How long a query waits for the store.
const QUERY_TIMEOUT: Duration = Duration::from_secs(4);

/// Writes what is due, for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    flush::run(PresenceWriter(inner)).await;
}

struct PresenceWriter(Arc<Inner>);

impl Writer for PresenceWriter {
    type Change = PresenceUpdate;

    fn woken(&self) -> &Notify {
        &self.0.presence_changed
    }

    fn next(&self) -> Next<PresenceUpdate> {
        let now = Instant::now();
        let state = &mut *self.0.lock();
        let due = state.presence.next_due();
        within_budget(
            state,
            due,
            now,
            |state| state.presence.commands_due(MAX_BATCH, now),
            |state, granted| state.presence.take(MAX_BATCH, granted, now),
        )
    }

    async fn write(&self, updates: &[PresenceUpdate]) -> bool {
        write(&self.0, updates).await
    }
}

/// The presence of the selected agents at all replicas that may live.
pub(super) async fn find(
    inner: &Inner,
    query: &PresenceQuery,
) -> Result<Vec<PresenceEntry>, StoreError> {
    let me = &inner.me.replica;
    let replicas: Vec<_> = {
        let state = inner.lock();
        let others = state.membership.leases().map(|lease| &lease.replica);
        // This replica's own too, so that one that is alone notices an unavailable store.
        others.chain([me]).cloned().collect()
    };
    let read = timeout(QUERY_TIMEOUT, inner.store.find_presence(&replicas, query)).await;
    let mut all = read.unwrap_or(Err(StoreError::Timeout(QUERY_TIMEOUT)))?;
    all.retain(|entry| entry.replica != *me);
    all.extend(own(inner, query));
    Ok(all)
}

/// This replica's own presence, whether it was written yet or not.
fn own(inner: &Inner, query: &PresenceQuery) -> Vec<PresenceEntry> {
    let state = inner.lock();
    let all = state.presence.current();
    all.filter(|(agent, presence)| query.includes(*agent, presence.group))
        .map(|(agent, presence)| PresenceEntry {
            replica: inner.me.replica.clone(),
            agent,
            presence: presence.clone(),
        })
        .collect()
}

/// Whether it was written.
async fn write(inner: &Inner, updates: &[PresenceUpdate]) -> bool {
    let written = inner.store.update_presence(&inner.me.replica, updates);
    let written = inner.in_time(written).await;
    let mut state = inner.lock();
    match written {
        Ok(()) => {
            state.presence.written(updates, Instant::now());
            true
        }
        Err(error) => {
            tracing::debug!(%error, agents = updates.len(), "writing presence failed; retrying");
            state.presence.failed(updates, Instant::now());
            false
        }
    }
}
