//! Tells the store what has changed, within the budget.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Inner;
use crate::store::{Change, StoreError};

/// Changes in one exchange.
const BATCH: usize = 256;
/// How long a failed exchange is waited after, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long telling that everything is over may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// What to do next.
enum Next {
    Write(Vec<Change>),
    /// Nothing before this time.
    Wait(Instant),
    /// Nothing until there is a change.
    Rest,
}

/// Writes what is due, for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut retry = RETRY.0;
    loop {
        match next(&inner) {
            Next::Write(changes) => {
                if write(&inner, &changes).await {
                    retry = RETRY.0;
                } else {
                    sleep(retry).await;
                    retry = (retry * 2).min(RETRY.1);
                }
            }
            Next::Wait(until) => tokio::select! {
                biased;
                () = sleep_until(until) => {}
                () = inner.write.notified() => {}
            },
            Next::Rest => inner.write.notified().await,
        }
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

fn next(inner: &Inner) -> Next {
    let now = Instant::now();
    let unix = inner.unix();
    let mut state = inner.lock();
    match state.ledger.next_due(now) {
        None => Next::Rest,
        Some(due) if due > now => Next::Wait(due),
        Some(_) => {
            let wanted = state.ledger.pending().clamp(1, BATCH);
            let granted = state.budget.take(wanted, now);
            if granted == 0 {
                return Next::Wait(now + state.budget.wait(now).max(Duration::from_millis(1)));
            }
            Next::Write(state.ledger.take(granted, now, unix))
        }
    }
}

/// Says whether it was written.
async fn write(inner: &Inner, changes: &[Change]) -> bool {
    let written = timeout(inner.settings.operation, tell(inner, changes)).await;
    let written = written.unwrap_or_else(|_| Err(StoreError("it did not answer in time".into())));
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
