//! The objects of one resource and those who watch it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::graph::rpc::{Known, Object, Update};
use tokio::sync::watch;
use tonic::Status;

use super::{
    budget::{Account, Budget, Kept},
    mirror::{self, Change, Mirror},
    told::{Next, Told},
};

/// Tells all who watch of one set of objects. Whoever feeds it is elsewhere.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    standing: watch::Sender<Standing>,
    account: Arc<Account>,
    budget: Arc<Budget>,
}

/// All that takes memory.
#[derive(Debug, Default)]
struct State {
    mirror: Mirror,
    /// What is collected before anybody is told.
    staged: Vec<Kept>,
    told: Told,
    failed: bool,
}

#[derive(Debug, Clone, Default)]
struct Standing {
    ready: bool,
    version: String,
    failed: Option<Status>,
    /// How often the way to the objects broke.
    breaks: u64,
}

impl Hub {
    /// A hub of a group, which has a part of the budget.
    pub(super) fn new(budget: &Arc<Budget>, group: u64) -> Arc<Self> {
        let hub = Arc::new(Self {
            state: Mutex::default(),
            standing: watch::Sender::default(),
            account: budget.account(group),
            budget: budget.clone(),
        });
        budget.add(&hub);
        hub
    }

    /// Takes all objects that there are; those who watch are told the difference.
    pub fn replace(&self, all: Vec<Object>, version: String) {
        let mut stage = self.stage();
        match stage.push(all) {
            Ok(()) => stage.commit(version),
            Err(status) => self.fail(&status),
        }
    }

    /// Begins to collect all objects that there are, to [`Stage::commit`] them at once.
    #[must_use]
    pub fn stage(&self) -> Stage<'_> {
        Stage(self)
    }

    /// Takes a change.
    pub fn apply(&self, update: Update) {
        match self.keep(update.changed) {
            Ok(changed) => {
                let change = Change {
                    changed,
                    removed: update.removed,
                    version: update.version,
                };
                self.change(|state| state.mirror.apply(change), false);
            }
            Err(status) => self.fail(&status),
        }
    }

    /// Ends it for all who watch, and gives back what it takes.
    pub fn fail(&self, status: &Status) {
        self.standing.send_modify(|it| {
            it.failed.get_or_insert_with(|| status.clone());
        });
        let gone = {
            let mut state = self.state();
            state.failed = true;
            state.told.relieve();
            (
                std::mem::take(&mut state.mirror),
                std::mem::take(&mut state.staged),
            )
        };
        drop(gone);
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

    /// Whether it ended.
    pub(super) fn has_failed(&self) -> bool {
        self.standing.borrow().failed.is_some()
    }

    /// Completes when it ends, without keeping it.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut standing = self.standing.subscribe();
        async move { drop(standing.wait_for(|it| it.failed.is_some()).await) }
    }

    /// What it takes.
    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// Cuts off those who are slow to hear what they are told; says whether that gave anything back.
    pub(super) fn relieve(&self) -> bool {
        self.state().told.relieve()
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
        let number = {
            let mut state = self.state();
            let first = state.mirror.difference(&known.objects);
            state.told.join(first)
        };
        Ok(Watch {
            hub: self,
            number,
            standing,
        })
    }

    /// Counts objects that come, before anybody keeps them.
    fn keep(&self, objects: Vec<Object>) -> Result<Vec<Kept>, Status> {
        let bytes = objects.iter().map(mirror::size).sum();
        self.budget.charge(self, bytes)?;
        let keep = |object| Kept::new(object, &self.account);
        Ok(objects.into_iter().map(keep).collect())
    }

    fn change(&self, change: impl FnOnce(&mut State) -> Change, ready: bool) {
        let mut state = self.state();
        if state.failed {
            return;
        }
        let change = change(&mut state);
        if !change.changed.is_empty() || !change.removed.is_empty() {
            // The lock is held, so that all hear one order.
            state.told.tell(change);
        }
        self.standing.send_modify(|it| {
            it.ready |= ready;
            state.mirror.version().clone_into(&mut it.version);
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Objects that are collected before anybody is told. They count like those that are told; dropping
/// it gives their bytes back. A hub has one at a time.
#[derive(Debug)]
pub struct Stage<'a>(&'a Hub);

impl Stage<'_> {
    /// Collects more.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn push(&mut self, objects: Vec<Object>) -> Result<(), Status> {
        let kept = self.0.keep(objects)?;
        let mut state = self.0.state();
        if state.failed {
            drop(state);
            let failure = self.0.failure();
            return Err(failure.unwrap_or_else(|| Status::unavailable("it has ended")));
        }
        let State { mirror, staged, .. } = &mut *state;
        // What is here already counts once.
        staged.extend(kept.into_iter().map(|it| mirror.known(&it).unwrap_or(it)));
        Ok(())
    }

    /// Takes what was collected as all that there is; whoever watches is told the difference.
    pub fn commit(self, version: String) {
        let replace = |state: &mut State| {
            let staged = std::mem::take(&mut state.staged);
            state.mirror.replace(staged, version)
        };
        self.0.change(replace, true);
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        let staged = std::mem::take(&mut self.0.state().staged);
        drop(staged);
    }
}

/// One who watches. The hub lives as long as it.
#[derive(Debug)]
pub struct Watch {
    hub: Arc<Hub>,
    number: u64,
    standing: watch::Receiver<Standing>,
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
            if let Some(status) = self.standing.borrow_and_update().failed.clone() {
                return Err(status);
            }
            match self.hub.state().told.next(self.number) {
                Next::Update(update) => return Ok(update),
                Next::Missed => {
                    return Err(Status::aborted("updates were missed: watch again"));
                }
                Next::Nothing => {}
            }
            if self.standing.changed().await.is_err() {
                return Err(Status::unavailable("it has ended"));
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.state().told.leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Limits,
        told::{QUEUE, QUEUE_BYTES},
    };

    fn budget(bytes: usize, bytes_of_group: usize) -> Arc<Budget> {
        Budget::new(&Limits {
            bytes,
            bytes_of_group,
            bytes_reserved: 0,
            bytes_each: bytes,
            hubs: 10,
            linger: Duration::MAX,
        })
    }

    fn hub(limit: usize) -> Arc<Hub> {
        Hub::new(&budget(limit, limit), 1)
    }

    async fn watching(hub: &Arc<Hub>) -> Watch {
        let known = Known::default();
        hub.clone().watch(&known, Duration::MAX).await.unwrap()
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
        assert_eq!(hub.account.bytes(), 0);

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
    async fn the_largest_gives_way_not_the_one_that_grows_last() {
        let budget = budget(100_000, 100_000);
        let (large, small) = (Hub::new(&budget, 1), Hub::new(&budget, 2));
        large.replace(vec![object(1, 1, 70_000)], "1".into());
        small.replace(vec![object(1, 1, 10_000)], "1".into());
        let mut watch = watching(&large).await;

        small.replace(vec![object(2, 2, 40_000)], "2".into());

        let code = tonic::Code::ResourceExhausted;
        assert_eq!(watch.next().await.unwrap_err().code(), code);
        assert_eq!(large.account.bytes(), 0);
        assert!(small.failure().is_none());
        assert!(small.account.bytes() > 40_000);
    }

    #[tokio::test(start_paused = true)]
    async fn one_group_has_its_part_and_its_largest_gives_way() {
        let budget = budget(100_000, 50_000);
        let bystander = Hub::new(&budget, 1);
        bystander.replace(vec![object(1, 1, 45_000)], "1".into());
        let (first, second) = (Hub::new(&budget, 2), Hub::new(&budget, 2));
        first.replace(vec![object(1, 1, 30_000)], "1".into());

        second.replace(vec![object(1, 1, 25_000)], "1".into());

        assert!(first.failure().is_some());
        assert!(second.failure().is_none() && bystander.failure().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_collects_without_end_ends_only_its_own() {
        let budget = budget(100_000, 50_000);
        let (bystander, endless) = (Hub::new(&budget, 1), Hub::new(&budget, 2));
        bystander.replace(vec![object(1, 1, 1_000)], "1".into());
        let mut stage = endless.stage();

        let full = (0..1_000).find_map(|uid| stage.push(vec![object(uid, 1, 1_000)]).err());

        assert_eq!(full.unwrap().code(), tonic::Code::ResourceExhausted);
        drop(stage);
        assert_eq!(endless.account.bytes(), 0);
        assert!(watching(&bystander).await.next().await.unwrap().synced);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_begin_to_watch_share_what_there_is() {
        let hub = hub(usize::MAX);
        hub.replace(
            (0..100).map(|uid| object(uid, 1, 1_000)).collect(),
            "1".into(),
        );
        let before = hub.account.bytes();

        let mut watches = Vec::new();
        for _ in 0..100 {
            watches.push(watching(&hub).await);
        }
        assert_eq!(hub.account.bytes(), before);

        // What they still have to hear counts, when it is nobody else's any more.
        hub.replace(Vec::new(), "2".into());
        assert_eq!(hub.account.bytes(), before);
        drop(watches);
        assert_eq!(hub.account.bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_the_slow_is_bounded_and_goes_first() {
        let hub = hub(2 * QUEUE_BYTES);
        hub.replace(Vec::new(), "1".into());
        let mut slow = watching(&hub).await;
        assert!(slow.next().await.unwrap().synced);
        let mut quick = watching(&hub).await;
        assert!(quick.next().await.unwrap().synced);

        for version in 2..50 {
            let changed = vec![object(1, version, QUEUE_BYTES / 4)];
            let version = version.to_string();
            hub.apply(Update {
                changed,
                version: version.clone(),
                ..Update::default()
            });
            assert_eq!(quick.next().await.unwrap().version, version);
            assert!(hub.account.bytes() < 2 * QUEUE_BYTES);
        }

        assert!(hub.failure().is_none());
        assert_eq!(slow.next().await.unwrap_err().code(), tonic::Code::Aborted);
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
