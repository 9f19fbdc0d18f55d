//! The shared state: the store behind a lock, its clock, and the news that it changed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::store::Store;

/// What requests and controllers share.
#[derive(Debug)]
pub(crate) struct Cluster {
    store: Mutex<Store>,
    revision: watch::Sender<u64>,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
}

impl Cluster {
    /// A cluster with these objects that ends with `stop`.
    pub(crate) fn new(store: Store, clock: Clock, stop: CancellationToken) -> Self {
        Self {
            revision: watch::Sender::new(store.revision()),
            store: Mutex::new(store),
            clock,
            stop,
        }
    }

    /// Looks at the store; `look` must be quick.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Store) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the store and tells those who watch.
    pub(crate) fn write<R>(&self, change: impl FnOnce(&mut Store) -> R) -> R {
        let mut store = self.lock();
        let result = change(&mut store);
        let latest = store.revision();
        drop(store);
        self.revision.send_if_modified(|known| {
            let news = latest > *known;
            *known = latest.max(*known);
            news
        });
        result
    }

    /// Tells of every change of the revision from now on.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
