//! All caches of a process: one for each watched resource.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

use crate::{budget::Budget, cache::ObjectCache, limits::Limits};

/// References to a cache that nobody watches: the map and its feeder.
const UNWATCHED_REFERENCES: usize = 2;

/// Caches by the resource that they are of. Clones share them.
#[derive(Debug)]
pub struct ObjectCaches<K>(Arc<Inner<K>>);

impl<K> Clone for ObjectCaches<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Inner<K> {
    caches: Mutex<HashMap<K, Arc<ObjectCache>>>,
    budget: Arc<Budget>,
    limits: Limits,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<K: Eq + Hash + Clone + Send + Sync + 'static> ObjectCaches<K> {
    /// Starts without any cache; feeders end with `stop`.
    #[must_use]
    pub fn new(limits: Limits, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            caches: Mutex::default(),
            budget: Budget::new(&limits),
            limits,
            tasks: TaskTracker::new(),
            stop,
        }))
    }

    /// The cache of a resource. If there is none, a new one of this group is made, which holds what
    /// `permit` returns and is filled by `feed` until it fails or nobody has watched it for
    /// [`Limits::idle_ttl`].
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when there are too many caches, and the errors of `permit`.
    pub fn get<F, P>(
        &self,
        key: K,
        group: u64,
        permit: impl FnOnce() -> Result<P, Status>,
        feed: impl FnOnce(Arc<ObjectCache>) -> F,
    ) -> Result<Arc<ObjectCache>, Status>
    where
        F: Future<Output = Status> + Send + 'static,
        P: Send + 'static,
    {
        let mut caches = self.caches();
        if let Some(cache) = caches.get(&key).filter(|cache| cache.failure().is_none()) {
            return Ok(cache.clone());
        }
        if caches.len() >= self.0.limits.caches {
            return Err(Status::resource_exhausted(
                "too many different resources are watched",
            ));
        }
        let permit = permit()?;
        let cache = ObjectCache::new(&self.0.budget, group);
        caches.insert(key.clone(), cache.clone());
        let feeding = feed(cache.clone());
        let (weak, ended) = (Arc::downgrade(&cache), cache.ended());
        let (all, idle_ttl) = (self.clone(), self.0.limits.idle_ttl);
        self.0.tasks.spawn(async move {
            let _permit = permit;
            let failed = async {
                let status = feeding.await;
                if let Some(cache) = weak.upgrade() {
                    cache.fail(&status);
                }
            };
            tokio::select! {
                () = failed => {}
                () = ended => {}
                () = all.unwatched(&key, idle_ttl) => {}
                () = all.0.stop.cancelled() => {}
            }
            all.forget(&key, &weak);
        });
        Ok(cache)
    }

    /// Waits until nobody watches at two moments `idle_ttl` apart, and removes the cache under
    /// the lock, so that nobody can begin to watch it meanwhile.
    async fn unwatched(&self, key: &K, idle_ttl: Duration) {
        let mut before = false;
        loop {
            tokio::time::sleep(idle_ttl).await;
            let mut caches = self.caches();
            let Some(cache) = caches.get(key) else { return };
            let now = Arc::strong_count(cache) <= UNWATCHED_REFERENCES;
            if cache.failure().is_some() || now && before {
                caches.remove(key);
                return;
            }
            before = now;
        }
    }

    fn forget(&self, key: &K, cache: &std::sync::Weak<ObjectCache>) {
        let mut caches = self.caches();
        if caches
            .get(key)
            .is_some_and(|it| std::ptr::eq(Arc::as_ptr(it), cache.as_ptr()))
        {
            caches.remove(key);
        }
    }

    fn caches(&self) -> MutexGuard<'_, HashMap<K, Arc<ObjectCache>>> {
        self.0.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::graph::rpc::Known;

    #[tokio::test(start_paused = true)]
    async fn a_cache_goes_when_nobody_has_watched_it_for_a_while() {
        let limits = Limits {
            caches: 1,
            idle_ttl: Duration::from_secs(60),
            ..Limits::of_bytes(usize::MAX, usize::MAX)
        };
        let caches = ObjectCaches::new(limits, CancellationToken::new());
        let feed = |cache: Arc<ObjectCache>| async move {
            cache.replace(Vec::new(), "1".into());
            std::future::pending::<()>().await;
            drop(cache);
            Status::ok("")
        };
        let known = Known::default();
        let permit = || Ok(());
        let first = caches.get("a", 1, permit, feed).unwrap();
        let watch = first.watch(&known, Duration::MAX).await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(caches.get("b", 1, permit, feed).is_err());
        drop(watch);
        tokio::time::sleep(Duration::from_secs(181)).await;
        assert!(caches.get("b", 1, permit, feed).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_that_failed_is_fed_no_more_and_releases_its_permit() {
        let limits = Limits {
            idle_ttl: Duration::from_secs(60),
            ..Limits::of_bytes(1 << 20, 1 << 20)
        };
        let caches = ObjectCaches::new(limits, CancellationToken::new());
        let permit = Arc::new(());
        let feed = |cache: Arc<ObjectCache>| async move {
            let _hub = cache;
            std::future::pending().await
        };
        let taken = permit.clone();
        let cache = caches.get("a", 1, || Ok(taken), feed).unwrap();

        cache.fail(&Status::resource_exhausted("for others"));

        while Arc::strong_count(&permit) > 1 || Arc::strong_count(&cache) > 1 {
            tokio::task::yield_now().await;
        }
        assert!(caches.caches().is_empty());
    }
}
