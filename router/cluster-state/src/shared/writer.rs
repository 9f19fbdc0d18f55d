//! Tells the store what has changed, within the budget.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    Inner,
    exchange::{self, BATCH, Next, Outbox, within_budget},
};
use crate::store::{Change, StoreError};

/// How long telling that everything is over may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// Writes what is due, for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    exchange::run(Writer(inner)).await;
}

struct Writer(Arc<Inner>);

impl Outbox for Writer {
    type Change = Change;

    fn woken(&self) -> &Notify {
        &self.0.write
    }

    fn next(&self) -> Next<Change> {
        let (now, unix) = (Instant::now(), self.0.unix());
        let state = &mut *self.0.lock();
        let due = state.ledger.next_due(now);
        within_budget(
            state,
            due,
            now,
            |state| state.ledger.pending().clamp(1, BATCH),
            |state, granted| state.ledger.take(granted, now, unix),
        )
    }

    async fn send(&self, changes: &[Change]) -> bool {
        write(&self.0, changes).await
    }
}

/// Retracts everything and ends the lease, as far as time allows.
pub(super) async fn leave(inner: &Inner) {
    let farewell = async {
        inner.lock().ledger.leave(Instant::now(), inner.unix());
        loop {
            let changes = inner
                .lock()
                .ledger
                .take(BATCH, Instant::now(), inner.unix());
            if changes.is_empty() || !write(inner, &changes).await {
                break;
            }
        }
        inner.store.end_lease(&inner.me.replica).await
    };
    match timeout(FAREWELL, farewell).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::info!(%error, "the routing store could not be told that this replica leaves")
        }
        Err(_) => tracing::info!("the routing store did not hear in time that this replica leaves"),
    }
}

/// Says whether it was written.
async fn write(inner: &Inner, changes: &[Change]) -> bool {
    let written = inner.in_time(tell(inner, changes)).await;
    let now = Instant::now();
    let mut state = inner.lock();
    match written {
        Ok(()) => {
            state.ledger.written(changes, now);
            true
        }
        Err(error) => {
            tracing::debug!(%error, changes = changes.len(), "changes could not be written");
            state.ledger.failed(changes, now);
            false
        }
    }
}

/// A replica that was cut off may have come back and written its entries before
/// they were buried. Its lease goes after them, so that it writes them again.
async fn tell(inner: &Inner, changes: &[Change]) -> Result<(), StoreError> {
    inner.store.apply(&inner.me, changes).await?;
    let buried: BTreeSet<_> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Bury(_, replica, _) => Some(replica),
            Change::Own(_) | Change::Disown(..) => None,
        })
        .collect();
    for replica in buried {
        inner.store.end_lease(replica).await?;
    }
    Ok(())
}
