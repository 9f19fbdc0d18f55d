//! Leaving in order: everyone is told, everyone who works is waited for.
//!
//! A [`Drain`] is cloned to whoever must leave. A [`Working`] guard is held by
//! whatever must be finished first; [`Drain::finished`] waits for the guards.

use std::time::Duration;

use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture, WaitForCancellationFutureOwned},
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// The shared word that a process leaves, and the count of what still works.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    announced: CancellationToken,
    leaving: CancellationToken,
    last_call: CancellationToken,
    working: TaskTracker,
}

/// Held while something is in progress that draining must wait for.
#[derive(Debug)]
pub struct Working(#[expect(dead_code, reason = "held for its Drop")] TaskTrackerToken);

impl Drain {
    /// Nobody leaves yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that leaving is near: nobody should settle down.
    pub fn announce(&self) {
        self.announced.cancel();
    }

    /// Whether leaving is near, or has begun.
    #[must_use]
    pub fn announced(&self) -> bool {
        self.announced.is_cancelled()
    }

    /// Tells everyone to leave. Telling twice changes nothing.
    pub fn start(&self) {
        self.announce();
        self.leaving.cancel();
        self.working.close();
    }

    /// Whether [`Self::start`] was called.
    #[must_use]
    pub fn started(&self) -> bool {
        self.leaving.is_cancelled()
    }

    /// Waits until draining starts. Cancel-safe.
    pub fn wait(&self) -> WaitForCancellationFuture<'_> {
        self.leaving.cancelled()
    }

    /// The token behind it, for those who want to derive their own.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.leaving
    }

    /// Says that time is nearly up: what may end in order whenever it likes should do so now.
    pub fn last_call(&self) {
        self.last_call.cancel();
    }

    /// Waits for [`Self::last_call`].
    pub fn last_called(&self) -> WaitForCancellationFutureOwned {
        self.last_call.clone().cancelled_owned()
    }

    /// Marks work that must be finished; drop the guard when it is.
    #[must_use]
    pub fn working(&self) -> Working {
        Working(self.working.token())
    }

    /// Spawns a task that draining waits for.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.working.spawn(task)
    }

    /// How many tasks and guards there are.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        self.working.len()
    }

    /// Waits for all work, at most for `grace`; says whether all of it ended.
    pub async fn finished(&self, grace: Duration) -> bool {
        tokio::time::timeout(grace, self.working.wait())
            .await
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_in_progress_is_waited_for() {
        let drain = Drain::new();
        let guard = drain.working();

        drain.start();
        assert!(!drain.finished(Duration::from_secs(5)).await);
        drop(guard);

        assert!(drain.finished(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn everyone_is_told() {
        let drain = Drain::new();
        let other = drain.clone();
        assert!(!other.announced());

        drain.announce();
        assert!(other.announced() && !other.started());

        drain.start();

        other.wait().await;
        assert!(other.started());
    }
}
