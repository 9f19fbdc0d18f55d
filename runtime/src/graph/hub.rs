//! The objects of one resource and those who watch it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proto::graph::rpc::{Known, Object, Update};
use tokio::sync::{broadcast, watch};
use tonic::Status;

use super::mirror::{self, Mirror};

/// Updates that wait for one who watches; whoever falls behind further is cut off.
const QUEUE: usize = 1024;
/// Bytes of objects in one message, unless one object has more.
const MESSAGE: usize = 1 << 20;

const TOO_MUCH: &str = "the objects that are watched take more memory than allowed";

type Told = Result<Arc<Update>, Status>;

/// Tells all who watch of one set of objects. Whoever feeds it is elsewhere.
#[derive(Debug)]
pub struct Hub {
    mirror: Mutex<Mirror>,
    told: broadcast::Sender<Told>,
    standing: watch::Sender<Standing>,
    budget: Arc<Budget>,
}

#[derive(Debug, Clone, Default)]
struct Standing {
    ready: bool,
    version: String,
    failed: Option<Status>,
    /// How often the way to the objects broke.
    breaks: u64,
}

/// What all hubs of a process may take.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) used: AtomicUsize,
    pub(super) limit: usize,
    /// What one hub may take of it.
    pub(super) each: usize,
}

impl Hub {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self {
            mirror: Mutex::default(),
            told: broadcast::Sender::new(QUEUE),
            standing: watch::Sender::default(),
            budget,
        }
    }

    /// Takes all objects that there are; those who watch are told the difference.
    pub fn replace(&self, all: Vec<Object>, version: String) {
        self.change(|mirror| mirror.replace(all, version), true);
    }

    /// Begins to collect all objects that there are, to [`Stage::commit`] them at once.
    #[must_use]
    pub fn stage(&self) -> Stage<'_> {
        Stage {
            hub: self,
            objects: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes a change.
    pub fn apply(&self, update: Update) {
        self.change(|mirror| mirror.apply(update), false);
    }

    /// Ends it for all who watch.
    pub fn fail(&self, status: &Status) {
        self.standing
            .send_modify(|it| it.failed = Some(status.clone()));
        // Nobody may watch.
        let _ = self.told.send(Err(status.clone()));
    }

    /// The way to the objects broke: what is told next comes by another.
    pub fn broke(&self) {
        self.standing.send_modify(|it| it.breaks += 1);
    }

    /// The version of what was told last; empty before.
    #[must_use]
    pub fn version(&self) -> String {
        self.standing.borrow().version.clone()
    }

    /// Whether there is something to tell.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.standing.borrow().ready
    }

    /// Why it ended, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<Status> {
        self.standing.borrow().failed.clone()
    }

    /// Watches on from what is known, once that is not newer than what is here;
    /// after `limit` it is not waited for.
    ///
    /// # Errors
    /// Why there is nothing to watch.
    pub async fn watch(self: Arc<Self>, known: &Known, limit: Duration) -> Result<Watch, Status> {
        let mut standing = self.standing.subscribe();
        let reached = standing.wait_for(|it| {
            it.failed.is_some() || it.ready && !mirror::is_older(&it.version, &known.version)
        });
        // Versions go back when a cluster was restored.
        drop(tokio::time::timeout(limit, reached).await);
        if let Some(status) = self.failure() {
            return Err(status);
        }
        if !self.is_ready() {
            return Err(Status::unavailable("the cluster has not told its objects"));
        }
        let (told, first) = {
            let mirror = self.mirror();
            (self.told.subscribe(), mirror.difference(&known.objects))
        };
        Ok(Watch {
            hub: self,
            told,
            pending: cut(first),
        })
    }

    fn change(&self, change: impl FnOnce(&mut Mirror) -> Update, ready: bool) {
        let mut mirror = self.mirror();
        let before = mirror.bytes();
        let update = change(&mut mirror);
        let (used, after) = (&self.budget.used, mirror.bytes());
        used.fetch_add(after, Ordering::Relaxed);
        let total = used.fetch_sub(before, Ordering::Relaxed) - before;
        if after > self.budget.each || total > self.budget.limit {
            drop(mirror);
            return self.fail(&Status::resource_exhausted(TOO_MUCH));
        }
        self.standing.send_modify(|it| {
            it.ready |= ready;
            mirror.version().clone_into(&mut it.version);
        });
        if !update.changed.is_empty() || !update.removed.is_empty() {
            // Nobody may watch. The lock is held, so that all hear one order.
            let _ = self.told.send(Ok(Arc::new(update)));
        }
    }

    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Objects that are collected before anybody is told. They count like those that are told; dropping
/// it gives their bytes back.
#[derive(Debug)]
pub struct Stage<'a> {
    hub: &'a Hub,
    objects: Vec<Object>,
    bytes: usize,
}

impl Stage<'_> {
    /// Collects more.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn push(&mut self, objects: Vec<Object>) -> Result<(), Status> {
        let bytes: usize = objects.iter().map(mirror::size).sum();
        let budget = &self.hub.budget;
        self.bytes += bytes;
        let total = budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.bytes > budget.each || total > budget.limit {
            return Err(Status::resource_exhausted(TOO_MUCH));
        }
        self.objects.extend(objects);
        Ok(())
    }

    /// Takes what was collected as all that there is; whoever watches is told the difference.
    pub fn commit(mut self, version: String) {
        let objects = std::mem::take(&mut self.objects);
        self.give_back();
        self.hub.replace(objects, version);
    }

    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.hub.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let bytes = self.mirror().bytes();
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One who watches. The hub lives as long as it.
#[derive(Debug)]
pub struct Watch {
    hub: Arc<Hub>,
    told: broadcast::Receiver<Told>,
    pending: VecDeque<Update>,
}

/// Breaks of the way to a hub's objects.
#[derive(Debug)]
pub struct Breaks {
    standing: watch::Receiver<Standing>,
    seen: u64,
}

impl Breaks {
    /// Waits for a break that was not told yet; several in a row are one. Nothing that comes after
    /// a break is told before it. Cancel-safe.
    pub async fn next(&mut self) {
        let seen = self.seen;
        let broke = self.standing.wait_for(|it| it.breaks != seen).await;
        let Ok(breaks) = broke.map(|it| it.breaks) else {
            return std::future::pending().await;
        };
        self.seen = breaks;
    }
}

impl Watch {
    /// The breaks from now on.
    #[must_use]
    pub fn breaks(&self) -> Breaks {
        let standing = self.hub.standing.subscribe();
        let seen = standing.borrow().breaks;
        Breaks { standing, seen }
    }

    /// The next update, of a size that can be sent. Cancel-safe.
    ///
    /// # Errors
    /// Why nothing more comes.
    pub async fn next(&mut self) -> Result<Update, Status> {
        loop {
            if let Some(update) = self.pending.pop_front() {
                return Ok(update);
            }
            match self.told.recv().await {
                Ok(update) => self.pending = cut((*update?).clone()),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    return Err(Status::aborted("updates were missed: watch again"));
                }
                Err(broadcast::error::RecvError::Closed) => {
                    let failure = self.hub.failure();
                    return Err(failure.unwrap_or_else(|| Status::unavailable("it has ended")));
                }
            }
        }
    }
}

/// Cuts an update into messages.
fn cut(update: Update) -> VecDeque<Update> {
    let mut messages = VecDeque::from([Update {
        removed: update.removed,
        ..Update::default()
    }]);
    let mut bytes = 0;
    for object in update.changed {
        let size = mirror::size(&object);
        bytes += size;
        if bytes > MESSAGE {
            bytes = size;
            messages.push_back(Update::default());
        }
        if let Some(message) = messages.back_mut() {
            message.changed.push(object);
        }
    }
    if let Some(last) = messages.back_mut() {
        last.synced = true;
        last.version = update.version;
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(limit: usize) -> Arc<Hub> {
        let used = AtomicUsize::new(0);
        Arc::new(Hub::new(Arc::new(Budget {
            used,
            limit,
            each: limit,
        })))
    }

    fn object(uid: usize, version: usize, bytes: usize) -> Object {
        Object {
            uid: uid.to_string(),
            resource_version: version.to_string(),
            json: vec![0; bytes].into(),
            ..Object::default()
        }
    }

    fn change(version: usize) -> Update {
        Update {
            changed: vec![object(1, version, 0)],
            version: version.to_string(),
            ..Update::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_hears_all_then_each_change() {
        let hub = hub(usize::MAX);
        let large = 1_400_000;
        hub.replace(vec![object(1, 1, large), object(2, 2, large)], "2".into());
        let known = Known::default();
        let mut watch = hub.clone().watch(&known, Duration::MAX).await.unwrap();

        let mut told = Vec::new();
        while !told.last().is_some_and(|it: &Update| it.synced) {
            told.push(watch.next().await.unwrap());
        }
        assert!(told.iter().all(|update| update.changed.len() <= 1));
        hub.apply(change(3));
        assert_eq!(watch.next().await.unwrap().version, "3");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_read_is_cut_off() {
        let hub = hub(usize::MAX);
        hub.replace(Vec::new(), "1".into());
        let known = Known::default();
        let mut watch = hub.clone().watch(&known, Duration::MAX).await.unwrap();
        for version in 2..QUEUE + 10 {
            hub.apply(change(version));
        }

        assert!(watch.next().await.unwrap().synced);
        let end = watch.next().await.unwrap_err();
        assert_eq!(end.code(), tonic::Code::Aborted);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_collected_without_end_is_refused_and_given_back() {
        let hub = hub(10_000);
        let mut stage = hub.stage();
        let mut pushed = 0;
        while stage.push(vec![object(pushed, 1, 1000)]).is_ok() {
            pushed += 1;
            assert!(pushed < 10, "there is an end");
        }
        drop(stage);
        assert_eq!(hub.budget.used.load(Ordering::Relaxed), 0);

        let mut stage = hub.stage();
        stage.push(vec![object(1, 1, 1000)]).unwrap();
        stage.commit("1".into());
        assert!(hub.is_ready() && hub.failure().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_bytes_end_it_for_all() {
        let hub = hub(10_000);
        hub.replace(Vec::new(), "1".into());
        let known = Known::default();
        let mut watch = hub.clone().watch(&known, Duration::MAX).await.unwrap();
        watch.next().await.unwrap();
        hub.replace(vec![object(1, 2, 20_000)], "2".into());

        let end = watch.next().await.unwrap_err();
        assert_eq!(end.code(), tonic::Code::ResourceExhausted);
        assert!(hub.watch(&known, Duration::MAX).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_taken_back_in_time() {
        let hub = hub(usize::MAX);
        hub.replace(Vec::new(), "1".into());
        let known = Known {
            version: "5".into(),
            ..Known::default()
        };
        let waiting = tokio::spawn(hub.clone().watch_owned(known));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        hub.apply(change(6));
        let mut watch = waiting.await.unwrap().unwrap();
        assert_eq!(watch.next().await.unwrap().version, "6");
    }

    impl Hub {
        async fn watch_owned(self: Arc<Self>, known: Known) -> Result<Watch, Status> {
            self.watch(&known, Duration::from_secs(3600)).await
        }
    }
}
