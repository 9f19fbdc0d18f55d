//! A routing table over a store that all replicas share.
//!
//! The store is a hint, never in the way: what is known stays usable while it
//! is away, announcements wait and are told when it is back, and agents whose
//! owners are not known are asked for at all live replicas meanwhile.
//!
//! ```text
//! announce, retract → ledger → writer ─┐
//!                                      ├─► store
//! owners, last_seen → records ← reader ┤
//!                     membership ← keeper (leases)
//! ```

mod agenda;
mod budget;
mod exchange;
mod keeper;
mod ledger;
mod membership;
mod reader;
mod records;
mod roll;
mod state;
mod teller;
mod writer;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    id::{AgentId, Owner, ReplicaId},
    presence::{Presence, Told, Wanted},
    ring::Ring,
    store::{RouteStore, StoreError, StoreEvent},
    table::{RoutingTable, TableFuture},
};
use state::State;

/// What is said of a store that is too slow.
const TOO_LATE: &str = "it did not answer in time";

/// How a table treats its store. The defaults are for production.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often the lease is renewed and the others' are read.
    pub renew_every: Duration,
    /// A replica whose lease is not renewed for so long is dead, unless it
    /// answers itself.
    pub expiry: Duration,
    /// How long an agent must be gone before the store is told.
    pub debounce: Duration,
    /// After what time an agent's entry is written again; stores may drop those
    /// that were not written for three times as long.
    pub refresh: Duration,
    /// How long one operation of the store may take. Nobody waits for it.
    pub operation: Duration,
    /// How long a request waits for the store before it does without.
    pub patience: Duration,
    /// How long, after the store was away or lost something, others have to
    /// write again what they hold before its word on absent agents counts.
    pub doubt: Duration,
    /// Operations of agents' records a second, at most.
    pub operations_per_second: u32,
    /// How many of them at once.
    pub burst: u32,
    /// Seconds since 1970.
    pub clock: fn() -> u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            renew_every: Duration::from_secs(5),
            expiry: Duration::from_secs(15),
            debounce: Duration::from_secs(1),
            refresh: Duration::from_secs(24 * 3600),
            operation: Duration::from_secs(10),
            patience: Duration::from_millis(200),
            doubt: Duration::from_secs(15),
            operations_per_second: 2000,
            burst: 4000,
            clock: || {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                now.map_or(0, |since| since.as_secs())
            },
        }
    }
}

/// What metrics show of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Replicas that may live, this one included.
    pub replicas: usize,
    /// Agents whose records are kept.
    pub records: usize,
    /// Changes that the store was not told yet.
    pub pending: usize,
    /// Operations that may be asked of the store at once now.
    pub budget: usize,
    /// Whether the store's word on absent agents counts.
    pub certain: bool,
}

/// Asks replicas themselves, past the store.
pub trait Vouch: std::fmt::Debug + Send + Sync + 'static {
    /// Who answers at the replica's URL. It has a few seconds.
    fn ask<'a>(&'a self, replica: &'a Owner) -> TableFuture<'a, Word>;
}

/// What is heard at a replica's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Exactly this replica answers.
    Lives,
    /// Nobody listens there, or another replica answers: this one has ended.
    Ended,
    /// Nothing that says either.
    Silence,
}

/// The table of one replica.
#[derive(Debug)]
pub struct SharedTable {
    inner: Arc<Inner>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stops: DropGuard,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn RouteStore>,
    vouch: Arc<dyn Vouch>,
    me: Owner,
    version: String,
    settings: Settings,
    state: Mutex<State>,
    renew: Notify,
    write: Notify,
    tell: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl SharedTable {
    /// The table of the replica `me` of this version; others are asked by
    /// `vouch` before they are taken for dead. Its tasks run until
    /// [`leave`](RoutingTable::leave), or until it is dropped.
    #[must_use]
    pub fn start(
        store: Arc<dyn RouteStore>,
        vouch: Arc<dyn Vouch>,
        me: Owner,
        version: &str,
        settings: Settings,
    ) -> Arc<Self> {
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let state = State::new(&me.replica, &settings, Instant::now());
        let inner = Arc::new(Inner {
            store,
            vouch,
            me,
            version: version.to_owned(),
            settings,
            state: Mutex::new(state),
            renew: Notify::new(),
            write: Notify::new(),
            tell: Notify::new(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        let until = |task| {
            let stop = stop.clone();
            async move {
                stop.run_until_cancelled(task).await;
            }
        };
        let runs: [TableFuture<'static, ()>; 4] = [
            Box::pin(keeper::run(inner.clone())),
            Box::pin(writer::run(inner.clone())),
            Box::pin(teller::run(inner.clone())),
            Box::pin(listen(inner.clone())),
        ];
        for run in runs {
            tasks.spawn(until(run));
        }
        Arc::new(Self {
            inner,
            tasks,
            _stops: stop.clone().drop_guard(),
            stop,
        })
    }

    /// For metrics.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        self.inner.lock().numbers(Instant::now())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store may have lost anything: it is told everything again.
    fn retell(&self, state: &mut State, now: Instant) {
        state.ledger.retell(now);
        state.roll.retell(now);
        self.write.notify_one();
        self.tell.notify_one();
    }

    /// The outcome of an operation of the store, which has its time.
    async fn in_time<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let done = timeout(self.settings.operation, operation).await;
        done.unwrap_or_else(|_| Err(StoreError(TOO_LATE.into())))
    }

    fn unix(&self) -> u64 {
        (self.settings.clock)()
    }
}

impl RoutingTable for SharedTable {
    fn announce(&self, agent: AgentId) {
        self.inner.lock().ledger.announce(agent, Instant::now());
        self.inner.write.notify_one();
    }

    fn retract(&self, agent: AgentId) {
        let unix = self.inner.unix();
        let now = Instant::now();
        self.inner.lock().ledger.retract(agent, now, unix);
        self.inner.write.notify_one();
    }

    fn owners(&self, agent: AgentId) -> TableFuture<'_, Vec<Owner>> {
        let inner = &self.inner;
        Box::pin(async move {
            let known = reader::fresh(inner, agent).await;
            let mut state = inner.lock();
            let owners = state.owners(agent, &known, &inner.me, Instant::now());
            if state.ledger.has_graves() {
                inner.write.notify_one();
            }
            if std::mem::take(&mut state.suspects) {
                inner.renew.notify_one();
            }
            owners
        })
    }

    fn changes(&self, agent: AgentId) -> watch::Receiver<u64> {
        self.inner.lock().records.changes(agent, Instant::now())
    }

    fn last_seen(&self, agent: AgentId) -> TableFuture<'_, Option<Duration>> {
        let inner = &self.inner;
        Box::pin(async move {
            let known = reader::fresh(inner, agent).await;
            reader::look_again(inner, agent, &known);
            inner
                .lock()
                .last_seen(&known, &inner.me, Instant::now(), inner.unix())
        })
    }

    fn tell(&self, agent: AgentId, presence: Option<Presence>) {
        let now = Instant::now();
        self.inner.lock().roll.tell(agent, presence, now);
        self.inner.tell.notify_one();
    }

    fn told<'a>(&'a self, wanted: &'a Wanted) -> TableFuture<'a, Result<Vec<Told>, StoreError>> {
        Box::pin(teller::told(&self.inner, wanted))
    }

    fn ring(&self) -> Ring {
        self.inner.lock().membership.ring().clone()
    }

    fn certain(&self) -> bool {
        self.inner.lock().certain(Instant::now())
    }

    fn certain_of(&self, agent: AgentId) -> bool {
        self.inner.lock().certain_of(agent, Instant::now())
    }

    fn unreachable(&self, replica: &ReplicaId) {
        self.inner.lock().membership.unreachable(replica);
    }

    fn lost(&self, url: &str) {
        self.inner.lock().membership.lost(url);
        self.inner.renew.notify_one();
    }

    fn drain(&self) {
        self.inner.lock().draining = true;
        self.inner.renew.notify_one();
    }

    fn leave(&self) -> TableFuture<'_, ()> {
        Box::pin(async move {
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
            writer::leave(&self.inner).await;
        })
    }
}

/// Hears what the store reports.
async fn listen(inner: Arc<Inner>) {
    let Some(mut events) = inner.store.events() else {
        return;
    };
    while let Some(event) = events.recv().await {
        let now = Instant::now();
        let mut state = inner.lock();
        match event {
            StoreEvent::Changed(agent) => state.records.changed(agent, now),
            StoreEvent::Missed => {
                state.records.outdate_all(now);
                inner.renew.notify_one();
            }
            StoreEvent::Back => {
                state.records.outdate_all(now);
                state.doubt(now);
                inner.retell(&mut state, now);
                inner.renew.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests;
