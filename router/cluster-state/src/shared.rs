//! A routing table over a store that all replicas share.
//!
//! The store is never in the way: cached records stay usable while it is
//! unavailable, changes wait and are written when it is back, and agents whose
//! owners are not known are asked for at all live replicas meanwhile.
//!
//! ```text
//! announce, retract → route outbox    → route writer ───┐
//! set_presence      → presence outbox → presence writer ┼─► store
//! owners, last_seen → record cache    ← lookup ─────────┤
//!                     membership      ← lease renewal ──┘
//! ```

mod budget;
mod flush;
mod lease_renewal;
mod lookup;
mod membership;
mod presence_outbox;
mod presence_writer;
mod record_cache;
mod route_outbox;
mod route_writer;
mod schedule;
mod state;

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
    member::{Member, MemberState, StoreHealth},
    presence::{Presence, PresenceEntry, PresenceQuery},
    probe::PeerProbe,
    ring::Ring,
    store::{Load, RouteStore, StoreError, StoreEvent},
    table::{RoutingTable, TableFuture},
};
use state::State;

/// Timing and limits of a table. The defaults are for production.
#[derive(Debug, Clone)]
pub struct TableSettings {
    /// How often the lease is renewed and the others' are read.
    pub renew_interval: Duration,
    /// A replica whose lease is not renewed for so long is dead, unless it
    /// answers its health probe.
    pub lease_expiry: Duration,
    /// How long an agent must be gone before it is retracted in the store.
    pub debounce: Duration,
    /// After what time an agent's entry is written again; stores may drop
    /// entries that were not written for three times as long.
    pub refresh_interval: Duration,
    /// After what time an agent's presence is written again, for stores in which it expires.
    pub presence_refresh_interval: Option<Duration>,
    /// How long one operation of the store may take in the background.
    pub operation_timeout: Duration,
    /// How long a request waits for the store before it does without.
    pub lookup_timeout: Duration,
    /// How long, after the store was unavailable or lost data, replicas have to
    /// write their entries again before the table is authoritative.
    pub recovery_grace: Duration,
    /// Operations on agents' records per second, at most.
    pub operations_per_second: u32,
    /// Operations on agents' records at once, at most.
    pub burst: u32,
    /// Seconds since 1970.
    pub clock: fn() -> u64,
}

impl Default for TableSettings {
    fn default() -> Self {
        Self {
            renew_interval: Duration::from_secs(5),
            lease_expiry: Duration::from_secs(15),
            debounce: Duration::from_secs(1),
            refresh_interval: Duration::from_secs(24 * 3600),
            presence_refresh_interval: None,
            operation_timeout: Duration::from_secs(10),
            lookup_timeout: Duration::from_millis(200),
            recovery_grace: Duration::from_secs(15),
            operations_per_second: 2000,
            burst: 4000,
            clock: || {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                now.map_or(0, |since| since.as_secs())
            },
        }
    }
}

/// A table's numbers, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableStats {
    /// Replicas that may live, this one included.
    pub replicas: usize,
    /// Agents whose records are cached.
    pub records: usize,
    /// Changes that are not written to the store yet.
    pub pending: usize,
    /// Operations on the store that the budget allows now.
    pub budget: usize,
    /// Whether the table is [authoritative](RoutingTable::is_authoritative).
    pub authoritative: bool,
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
    probe: Arc<dyn PeerProbe>,
    me: Owner,
    version: String,
    settings: TableSettings,
    state: Mutex<State>,
    renew: Notify,
    routes_changed: Notify,
    presence_changed: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl SharedTable {
    /// The table of the replica `me` of this version; others are probed by
    /// `probe` before they count as dead. Its tasks run until
    /// [`leave`](RoutingTable::leave), or until it is dropped.
    #[must_use]
    pub fn start(
        store: Arc<dyn RouteStore>,
        probe: Arc<dyn PeerProbe>,
        me: Owner,
        version: &str,
        settings: TableSettings,
    ) -> Arc<Self> {
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let state = State::new(&me.replica, &settings, Instant::now());
        let inner = Arc::new(Inner {
            store,
            probe,
            me,
            version: version.to_owned(),
            settings,
            state: Mutex::new(state),
            renew: Notify::new(),
            routes_changed: Notify::new(),
            presence_changed: Notify::new(),
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
            Box::pin(lease_renewal::run(inner.clone())),
            Box::pin(route_writer::run(inner.clone())),
            Box::pin(presence_writer::run(inner.clone())),
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

    /// The table's numbers.
    #[must_use]
    pub fn stats(&self) -> TableStats {
        self.inner.lock().stats(Instant::now())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store may have lost data: everything is written again.
    fn write_all_again(&self, state: &mut State, now: Instant) {
        state.routes.write_all_again(now);
        state.presence.write_all_again(now);
        self.routes_changed.notify_one();
        self.presence_changed.notify_one();
    }

    /// The outcome of an operation of the store within the operation timeout.
    async fn in_time<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let limit = self.settings.operation_timeout;
        let done = timeout(limit, operation).await;
        done.unwrap_or(Err(StoreError::Timeout(limit)))
    }

    fn unix(&self) -> u64 {
        (self.settings.clock)()
    }
}

impl RoutingTable for SharedTable {
    fn announce(&self, agent: AgentId) {
        self.inner.lock().routes.announce(agent, Instant::now());
        self.inner.routes_changed.notify_one();
    }

    fn retract(&self, agent: AgentId) {
        let unix = self.inner.unix();
        let now = Instant::now();
        self.inner.lock().routes.retract(agent, now, unix);
        self.inner.routes_changed.notify_one();
    }

    fn owners(&self, agent: AgentId) -> TableFuture<'_, Vec<Owner>> {
        let inner = &self.inner;
        Box::pin(async move {
            let known = lookup::fresh(inner, agent).await;
            let mut state = inner.lock();
            let owners = state.owners(agent, &known, &inner.me, Instant::now());
            if state.routes.has_dead_entries() {
                inner.routes_changed.notify_one();
            }
            if std::mem::take(&mut state.has_suspects) {
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
            let known = lookup::fresh(inner, agent).await;
            lookup::recheck(inner, agent, &known);
            inner
                .lock()
                .last_seen(&known, &inner.me, Instant::now(), inner.unix())
        })
    }

    fn set_presence(&self, agent: AgentId, presence: Option<Presence>) {
        let now = Instant::now();
        self.inner.lock().presence.set(agent, presence, now);
        self.inner.presence_changed.notify_one();
    }

    fn find_presence<'a>(
        &'a self,
        query: &'a PresenceQuery,
    ) -> TableFuture<'a, Result<Vec<PresenceEntry>, StoreError>> {
        Box::pin(presence_writer::find(&self.inner, query))
    }

    fn ring(&self) -> Ring {
        self.inner.lock().membership.ring().clone()
    }

    fn is_authoritative(&self) -> bool {
        self.inner.lock().is_authoritative(Instant::now())
    }

    fn is_authoritative_for(&self, agent: AgentId) -> bool {
        self.inner
            .lock()
            .is_authoritative_for(agent, Instant::now())
    }

    fn was_reached(&self) -> bool {
        self.inner.lock().registered
    }

    fn members(&self) -> Vec<Member> {
        let state = self.inner.lock();
        let me = Member {
            replica: self.inner.me.clone(),
            version: self.inner.version.clone(),
            state: if state.draining {
                MemberState::Draining
            } else {
                MemberState::Serving
            },
            load: state.load,
        };
        state
            .membership
            .members()
            .chain(std::iter::once(me))
            .collect()
    }

    fn store_health(&self) -> StoreHealth {
        if self.inner.lock().unavailable {
            StoreHealth::Unavailable
        } else {
            StoreHealth::Available
        }
    }

    fn mark_unreachable(&self, replica: &ReplicaId) {
        self.inner.lock().membership.mark_unreachable(replica);
    }

    fn connection_lost(&self, url: &str) {
        self.inner.lock().membership.mark_disconnected(url);
        self.inner.renew.notify_one();
    }

    fn set_load(&self, load: Load) {
        self.inner.lock().load = Some(load);
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
            route_writer::leave(&self.inner).await;
        })
    }
}

/// Applies the store's events.
async fn listen(inner: Arc<Inner>) {
    let Some(mut events) = inner.store.events() else {
        return;
    };
    while let Some(event) = events.recv().await {
        let now = Instant::now();
        let mut state = inner.lock();
        match event {
            StoreEvent::RecordChanged(agent) => state.records.invalidate(agent, now),
            StoreEvent::EventsMissed => {
                state.records.invalidate_all(now);
                inner.renew.notify_one();
            }
            StoreEvent::Reconnected => {
                state.records.invalidate_all(now);
                state.start_recovery_grace(now);
                inner.write_all_again(&mut state, now);
                inner.renew.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests;
