//! Graceful shutdown: a signal to all parts of a process, and a wait for the work in progress.
//!
//! A [`Drain`] is cloned to every part that must shut down. A [`Working`] guard
//! is held while work is in progress; [`Drain::finished`] waits for the guards.

use std::{sync::Arc, time::Duration};

use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture, WaitForCancellationFutureOwned},
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// The signal that a process shuts down, and the count of its work in progress. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Drain(Arc<State>);

/// Behind one pointer: each request has clones, and those of a token take a lock.
#[derive(Debug, Default)]
struct State {
    announced: CancellationToken,
    leaving: CancellationToken,
    last_call: CancellationToken,
    working: TaskTracker,
}

/// Held while something is in progress that draining must wait for.
#[derive(Debug)]
pub struct Working(#[expect(dead_code, reason = "held for its Drop")] TaskTrackerToken);

impl Drain {
    /// A drain that has not started.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Announces that draining will start soon: clients should not settle on their connections.
    pub fn announce(&self) {
        self.0.announced.cancel();
    }

    /// Whether draining was announced, or has started.
    #[must_use]
    pub fn announced(&self) -> bool {
        self.0.announced.is_cancelled()
    }

    /// Starts draining. Starting twice changes nothing.
    pub fn start(&self) {
        self.announce();
        self.0.leaving.cancel();
        self.0.working.close();
    }

    /// Whether [`Self::start`] was called.
    #[must_use]
    pub fn started(&self) -> bool {
        self.0.leaving.is_cancelled()
    }

    /// Waits until draining starts. Cancel-safe.
    pub fn wait(&self) -> WaitForCancellationFuture<'_> {
        self.0.leaving.cancelled()
    }

    /// The token that is cancelled when draining starts.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.0.leaving
    }

    /// Announces the end of the grace period: what may end in order at any time, such as a watch, should end now.
    pub fn last_call(&self) {
        self.0.last_call.cancel();
    }

    /// Waits for [`Self::last_call`].
    pub fn last_called(&self) -> WaitForCancellationFutureOwned {
        self.0.last_call.clone().cancelled_owned()
    }

    /// Marks work that must be finished; drop the guard when it is.
    #[must_use]
    pub fn working(&self) -> Working {
        Working(self.0.working.token())
    }

    /// Spawns a task that draining waits for.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.working.spawn(task)
    }

    /// How many tasks and guards there are.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        self.0.working.len()
    }

    /// Waits for all work, at most for `grace`; says whether all of it ended.
    pub async fn finished(&self, grace: Duration) -> bool {
        tokio::time::timeout(grace, self.0.working.wait())
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
    async fn clones_share_the_signal() {
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
