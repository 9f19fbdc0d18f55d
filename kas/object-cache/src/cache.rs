//! The objects of one resource, and the watches on them.

mod staging;
#[cfg(test)]
mod tests;
mod watching;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use proto::graph::rpc::{Known, Object, Update};
use tokio::sync::watch;
use tonic::Status;

pub use staging::StagedList;
pub use watching::{Interruptions, Watch};

use crate::{
    backlog::Backlog,
    budget::{self, Budget, CachedObject, Member, Usage},
    snapshot::{self, Change, Snapshot},
};

/// The objects of one resource and their watchers. Whoever feeds it is elsewhere.
#[derive(Debug)]
pub struct ObjectCache {
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    usage: Arc<Usage>,
    budget: Arc<Budget>,
}

/// Everything that takes memory.
#[derive(Debug, Default)]
struct State {
    snapshot: Snapshot,
    /// Objects of a list that is not complete yet.
    staged: Vec<CachedObject>,
    backlog: Backlog,
    failed: bool,
}

/// What watchers wait for.
#[derive(Debug, Clone, Default)]
struct Progress {
    ready: bool,
    version: String,
    failure: Option<Status>,
    /// How often the feed was interrupted.
    interruptions: u64,
}

impl ObjectCache {
    /// An empty cache of a group, which has a part of the budget.
    pub(crate) fn new(budget: &Arc<Budget>, group: u64) -> Arc<Self> {
        let cache = Arc::new(Self {
            state: Mutex::default(),
            progress: watch::Sender::default(),
            usage: budget.usage(group),
            budget: budget.clone(),
        });
        let member: Weak<Self> = Arc::downgrade(&cache);
        budget.add(member);
        cache
    }

    /// Replaces all objects; watchers receive the difference.
    pub fn replace(&self, all: Vec<Object>, version: String) {
        let mut list = self.begin_list();
        match list.push(all) {
            Ok(()) => list.commit(version),
            Err(status) => self.fail(&status),
        }
    }

    /// Begins to collect all objects page by page; [`StagedList::commit`] replaces them at once.
    #[must_use]
    pub fn begin_list(&self) -> StagedList<'_> {
        StagedList::new(self)
    }

    /// Applies a change.
    pub fn apply(&self, update: Update) {
        match self.charge(update.changed) {
            Ok(changed) => {
                let change = Change {
                    changed,
                    removed: update.removed,
                    version: update.version,
                };
                self.change(|state| state.snapshot.apply(change), false);
            }
            Err(status) => self.fail(&status),
        }
    }

    /// Ends the cache for all watchers and frees its objects.
    pub fn fail(&self, status: &Status) {
        self.progress.send_modify(|it| {
            it.failure.get_or_insert_with(|| status.clone());
        });
        let freed = {
            let mut state = self.state();
            state.failed = true;
            state.backlog.discard();
            (
                std::mem::take(&mut state.snapshot),
                std::mem::take(&mut state.staged),
            )
        };
        // Without the lock: each object that is freed locks the usage.
        drop(freed);
    }

    /// Notes that the feed was interrupted: what comes next comes by another connection.
    pub fn mark_interrupted(&self) {
        self.progress.send_modify(|it| it.interruptions += 1);
    }

    /// The resource version that watchers have been sent last; empty before the first list.
    #[must_use]
    pub fn version(&self) -> String {
        self.progress.borrow().version.clone()
    }

    /// Whether there was a complete list.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.progress.borrow().ready
    }

    /// Why it ended; `None` while it has not.
    #[must_use]
    pub fn failure(&self) -> Option<Status> {
        self.progress.borrow().failure.clone()
    }

    /// Completes when the cache ends, without keeping it alive.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut progress = self.progress.subscribe();
        async move { drop(progress.wait_for(|it| it.failure.is_some()).await) }
    }

    /// Starts a watch behind what is `known`, once the cache is not older than that. After `limit`
    /// the watch starts all the same: versions go back when a cluster was restored.
    ///
    /// # Errors
    /// The cache's failure; UNAVAILABLE when there was no list within `limit`.
    pub async fn watch(self: Arc<Self>, known: &Known, limit: Duration) -> Result<Watch, Status> {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|it| {
            it.failure.is_some() || it.ready && !snapshot::is_older(&it.version, &known.version)
        });
        drop(tokio::time::timeout(limit, reached).await);
        if let Some(status) = self.failure() {
            return Err(status);
        }
        if !self.is_ready() {
            return Err(Status::unavailable(
                "the cluster's objects could not be listed in time",
            ));
        }
        let number = {
            let mut state = self.state();
            let first = state.snapshot.difference(&known.objects);
            state.backlog.join(first)
        };
        Ok(Watch::new(self, number, progress))
    }

    /// Charges the budget for objects before anything keeps them.
    fn charge(&self, objects: Vec<Object>) -> Result<Vec<CachedObject>, Status> {
        let bytes = objects.iter().map(budget::size).sum();
        self.budget.charge(self, bytes)?;
        let counted = |object| CachedObject::new(object, &self.usage);
        Ok(objects.into_iter().map(counted).collect())
    }

    fn change(&self, change: impl FnOnce(&mut State) -> Change, ready: bool) {
        let mut state = self.state();
        if state.failed {
            return;
        }
        let change = change(&mut state);
        if !change.changed.is_empty() || !change.removed.is_empty() {
            // Under the lock, so that all watchers receive changes in the same order.
            state.backlog.publish(change);
        }
        self.progress.send_modify(|it| {
            it.ready |= ready;
            state.snapshot.version().clone_into(&mut it.version);
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member for ObjectCache {
    fn usage(&self) -> &Usage {
        &self.usage
    }

    fn discard_backlog(&self) -> bool {
        self.state().backlog.discard()
    }

    fn fail(&self, status: &Status) {
        Self::fail(self, status);
    }

    fn has_failed(&self) -> bool {
        self.progress.borrow().failure.is_some()
    }
}
