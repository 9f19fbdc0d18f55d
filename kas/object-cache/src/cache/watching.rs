//! A watcher's end of a cache.

use std::sync::Arc;

use proto::graph::rpc::Update;
use tokio::sync::watch;
use tonic::Status;

use super::{ObjectCache, Progress};
use crate::backlog::Next;

/// A watch. The cache lives as long as it.
#[derive(Debug)]
pub struct Watch {
    cache: Arc<ObjectCache>,
    number: u64,
    progress: watch::Receiver<Progress>,
}

/// Interruptions of a cache's feed.
#[derive(Debug)]
pub struct Interruptions {
    progress: watch::Receiver<Progress>,
    seen: u64,
}

impl Interruptions {
    /// Waits for an interruption that was not returned yet; several in a row are one. No update
    /// from behind an interruption can be received before this completes. Cancel-safe.
    pub async fn next(&mut self) {
        let seen = self.seen;
        let interrupted = self.progress.wait_for(|it| it.interruptions != seen).await;
        let Ok(interruptions) = interrupted.map(|it| it.interruptions) else {
            return std::future::pending().await;
        };
        self.seen = interruptions;
    }
}

impl Watch {
    pub(super) fn new(
        cache: Arc<ObjectCache>,
        number: u64,
        progress: watch::Receiver<Progress>,
    ) -> Self {
        Self {
            cache,
            number,
            progress,
        }
    }

    /// The interruptions from now on.
    #[must_use]
    pub fn interruptions(&self) -> Interruptions {
        let progress = self.cache.progress.subscribe();
        let seen = progress.borrow().interruptions;
        Interruptions { progress, seen }
    }

    /// The next update, small enough for one message. Cancel-safe.
    ///
    /// # Errors
    /// The cache's failure; ABORTED when the watcher was too slow and has missed updates.
    pub async fn next(&mut self) -> Result<Update, Status> {
        loop {
            if let Some(status) = self.progress.borrow_and_update().failure.clone() {
                return Err(status);
            }
            match self.cache.state().backlog.next(self.number) {
                Next::Update(update) => return Ok(update),
                Next::Lagged => {
                    return Err(Status::aborted("updates were missed: watch again"));
                }
                Next::Empty => {}
            }
            if self.progress.changed().await.is_err() {
                return Err(Status::unavailable("the cache has ended"));
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.cache.state().backlog.leave(self.number);
    }
}
