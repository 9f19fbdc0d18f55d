//! All hubs of a process: one for each resource that somebody watches.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

use super::{budget::Budget, hub::Hub};

/// How many holders a hub has that nobody watches: the map and its feeder.
const UNWATCHED: usize = 2;

/// What hubs may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all objects together, about.
    pub bytes: usize,
    /// Bytes of the objects of one group of hubs, about.
    pub bytes_of_group: usize,
    /// Of all bytes, the last ones, which only a group may take that has none.
    pub bytes_reserved: usize,
    /// Bytes of one hub's objects, about: a large one ends before it takes the room of the others.
    pub bytes_each: usize,
    /// How many hubs.
    pub hubs: usize,
    /// How long a hub stays that nobody watches.
    pub linger: Duration,
}

/// Hubs by what they are of. Clones share them.
#[derive(Debug)]
pub struct Hubs<K>(Arc<Inner<K>>);

impl<K> Clone for Hubs<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Inner<K> {
    hubs: Mutex<HashMap<K, Arc<Hub>>>,
    budget: Arc<Budget>,
    limits: Limits,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<K: Eq + Hash + Clone + Send + Sync + 'static> Hubs<K> {
    /// None yet; feeders end with `stop`.
    #[must_use]
    pub fn new(limits: Limits, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            hubs: Mutex::default(),
            budget: Budget::new(&limits),
            limits,
            tasks: TaskTracker::new(),
            stop,
        }))
    }

    /// The hub of a resource; if there is none, `feed` feeds a new one of this group until it
    /// fails or nobody has watched for a while. Until then it has what `place` gives.
    ///
    /// # Errors
    /// When there are too many, and why there is no place.
    pub fn get<F, P>(
        &self,
        key: K,
        group: u64,
        place: impl FnOnce() -> Result<P, Status>,
        feed: impl FnOnce(Arc<Hub>) -> F,
    ) -> Result<Arc<Hub>, Status>
    where
        F: Future<Output = Status> + Send + 'static,
        P: Send + 'static,
    {
        let mut hubs = self.hubs();
        if let Some(hub) = hubs.get(&key).filter(|hub| hub.failure().is_none()) {
            return Ok(hub.clone());
        }
        if hubs.len() >= self.0.limits.hubs {
            return Err(Status::resource_exhausted("too many resources are watched"));
        }
        let place = place()?;
        let hub = Hub::new(&self.0.budget, group);
        hubs.insert(key.clone(), hub.clone());
        let feeding = feed(hub.clone());
        let (weak, ended) = (Arc::downgrade(&hub), hub.ended());
        let (all, linger) = (self.clone(), self.0.limits.linger);
        self.0.tasks.spawn(async move {
            let _place = place;
            let failed = async {
                let status = feeding.await;
                if let Some(hub) = weak.upgrade() {
                    hub.fail(&status);
                }
            };
            tokio::select! {
                () = failed => {}
                () = ended => {}
                () = all.unwatched(&key, linger) => {}
                () = all.0.stop.cancelled() => {}
            }
            all.forget(&key, &weak);
        });
        Ok(hub)
    }

    /// Waits until nobody watches at two moments `linger` apart, and takes the
    /// hub away then, so that nobody can begin to.
    async fn unwatched(&self, key: &K, linger: Duration) {
        let mut before = false;
        loop {
            tokio::time::sleep(linger).await;
            let mut hubs = self.hubs();
            let Some(hub) = hubs.get(key) else { return };
            let now = Arc::strong_count(hub) <= UNWATCHED;
            if hub.failure().is_some() || now && before {
                hubs.remove(key);
                return;
            }
            before = now;
        }
    }

    fn forget(&self, key: &K, hub: &std::sync::Weak<Hub>) {
        let mut hubs = self.hubs();
        if hubs
            .get(key)
            .is_some_and(|it| std::ptr::eq(Arc::as_ptr(it), hub.as_ptr()))
        {
            hubs.remove(key);
        }
    }

    fn hubs(&self) -> MutexGuard<'_, HashMap<K, Arc<Hub>>> {
        self.0.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::graph::rpc::Known;

    #[tokio::test(start_paused = true)]
    async fn a_hub_goes_when_nobody_has_watched_for_a_while() {
        let limits = Limits {
            bytes: usize::MAX,
            bytes_of_group: usize::MAX,
            bytes_reserved: 0,
            bytes_each: usize::MAX,
            hubs: 1,
            linger: Duration::from_secs(60),
        };
        let hubs = Hubs::new(limits, CancellationToken::new());
        let feed = |hub: Arc<Hub>| async move {
            hub.replace(Vec::new(), "1".into());
            std::future::pending::<()>().await;
            drop(hub);
            Status::ok("")
        };
        let known = Known::default();
        let place = || Ok(());
        let first = hubs.get("a", 1, place, feed).unwrap();
        let watch = first.watch(&known, Duration::MAX).await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(hubs.get("b", 1, place, feed).is_err());
        drop(watch);
        tokio::time::sleep(Duration::from_secs(181)).await;
        assert!(hubs.get("b", 1, place, feed).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_had_to_give_way_is_fed_no_more_and_gives_its_place_back() {
        let limits = Limits {
            bytes: 1 << 20,
            bytes_of_group: 1 << 20,
            bytes_reserved: 0,
            bytes_each: 1 << 20,
            hubs: 10,
            linger: Duration::from_secs(60),
        };
        let hubs = Hubs::new(limits, CancellationToken::new());
        let place = Arc::new(());
        let feed = |hub: Arc<Hub>| async move {
            let _hub = hub;
            std::future::pending().await
        };
        let taken = place.clone();
        let hub = hubs.get("a", 1, || Ok(taken), feed).unwrap();

        hub.fail(&Status::resource_exhausted("for others"));

        while Arc::strong_count(&place) > 1 || Arc::strong_count(&hub) > 1 {
            tokio::task::yield_now().await;
        }
        assert!(hubs.hubs().is_empty());
    }
}
