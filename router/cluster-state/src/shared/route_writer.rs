//! Writes changes of routes to the store, within the budget.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    Inner,
    flush::{self, MAX_BATCH, Next, Writer, within_budget},
};
use crate::store::{RouteChange, StoreError};

/// How long removing all of this replica's entries may take when it leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Writes what is due, for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    flush::run(RouteWriter(inner)).await;
}

struct RouteWriter(Arc<Inner>);

impl Writer for RouteWriter {
    type Change = RouteChange;

    fn woken(&self) -> &Notify {
        &self.0.routes_changed
    }

    fn next(&self) -> Next<RouteChange> {
        let (now, unix) = (Instant::now(), self.0.unix());
        let state = &mut *self.0.lock();
        let due = state.routes.next_due(now);
        within_budget(
            state,
            due,
            now,
            |state| state.routes.pending().clamp(1, MAX_BATCH),
            |state, granted| state.routes.take(granted, now, unix),
        )
    }

    async fn write(&self, changes: &[RouteChange]) -> bool {
        write(&self.0, changes).await
    }
}

/// Retracts everything and ends the lease, as far as time allows.
pub(super) async fn leave(inner: &Inner) {
    let leave = async {
        inner.lock().routes.leave(Instant::now(), inner.unix());
        loop {
            let changes = inner
                .lock()
                .routes
                .take(MAX_BATCH, Instant::now(), inner.unix());
            if changes.is_empty() || !write(inner, &changes).await {
                break;
            }
        }
        inner.store.end_lease(&inner.me.replica).await
    };
    let left = timeout(LEAVE_TIMEOUT, leave).await;
    let left = left.unwrap_or(Err(StoreError::Timeout(LEAVE_TIMEOUT)));
    if let Err(error) = left {
        tracing::info!(
            %error,
            "could not remove this replica from the routing store; its entries expire by themselves"
        );
    }
}

/// Whether it was written.
async fn write(inner: &Inner, changes: &[RouteChange]) -> bool {
    let written = inner.in_time(apply(inner, changes)).await;
    let now = Instant::now();
    let mut state = inner.lock();
    match written {
        Ok(()) => {
            state.routes.written(changes, now);
            true
        }
        Err(error) => {
            tracing::debug!(%error, changes = changes.len(), "writing routes failed; retrying");
            state.routes.failed(changes, now);
            false
        }
    }
}

/// A replica that was cut off may have come back and written its entries before
/// they were removed here. Its lease goes after them, so that it writes them
/// again.
async fn apply(inner: &Inner, changes: &[RouteChange]) -> Result<(), StoreError> {
    inner.store.apply(&inner.me, changes).await?;
    let dead: BTreeSet<_> = changes
        .iter()
        .filter_map(|change| match change {
            RouteChange::RemoveDead(_, replica, _) => Some(replica),
            RouteChange::Announce(_) | RouteChange::Retract(..) => None,
        })
        .collect();
    for replica in dead {
        inner.store.end_lease(replica).await?;
    }
    Ok(())
}
