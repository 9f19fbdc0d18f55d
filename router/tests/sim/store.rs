//! The routing store: it may stall, refuse, be slow, lose its last writes or
//! everything, and lose reports, as far as its contract allows.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cluster_state::{
    AgentId, Lease, Owner, PresenceEntry, PresenceQuery, PresenceUpdate, Record, Renewal,
    ReplicaId, RouteChange, RouteStore, StoreError, StoreEvent, StoreFuture,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// How long before now the store can be set back.
const HISTORY: Duration = Duration::from_secs(3);

/// Operations that may be under way on one connection.
const OPEN: usize = 10_000;

/// How the store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// It answers late, or never while this lasts.
    Stalls,
    Refuses,
    /// Each operation takes so many milliseconds.
    Slow(u64),
}

/// What is stored.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    pub leases: BTreeMap<ReplicaId, Lease>,
    pub records: BTreeMap<AgentId, Record>,
}

struct Server {
    contents: Contents,
    history: VecDeque<(Instant, Contents)>,
    clients: BTreeMap<ReplicaId, Armed>,
}

struct Armed {
    events: mpsc::Sender<StoreEvent>,
    agents: BTreeSet<AgentId>,
    deaf: bool,
}

/// The store of a simulation.
pub struct SimServer {
    server: Mutex<Server>,
    mood: watch::Sender<(Mood, BTreeSet<ReplicaId>)>,
}

type Act = Box<dyn FnOnce(Result<&mut Server, StoreError>) + Send>;

/// One replica's way to it. Its operations are done in their order, also when
/// nobody waits for them any more.
pub struct SimStore {
    me: ReplicaId,
    acts: mpsc::Sender<Act>,
    events: Mutex<Option<mpsc::Receiver<StoreEvent>>>,
    operations: Mutex<Vec<Instant>>,
    registered: Arc<AtomicBool>,
    dead: Arc<AtomicBool>,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStore").finish_non_exhaustive()
    }
}

impl SimServer {
    pub fn new() -> Arc<Self> {
        let server = Server {
            contents: Contents::default(),
            history: VecDeque::new(),
            clients: BTreeMap::new(),
        };
        Arc::new(Self {
            server: Mutex::new(server),
            mood: watch::Sender::new((Mood::Well, BTreeSet::new())),
        })
    }

    pub fn client(self: &Arc<Self>, me: &ReplicaId) -> Arc<SimStore> {
        let (events, reports) = mpsc::channel(1024);
        let armed = Armed {
            events,
            agents: BTreeSet::new(),
            deaf: false,
        };
        self.server
            .lock()
            .unwrap()
            .clients
            .insert(me.clone(), armed);
        let (acts, queue) = mpsc::channel(OPEN);
        let dead = Arc::new(AtomicBool::new(false));
        tokio::spawn(work(self.clone(), me.clone(), queue, dead.clone()));
        Arc::new(SimStore {
            me: me.clone(),
            acts,
            events: Mutex::new(Some(reports)),
            operations: Mutex::default(),
            registered: Arc::default(),
            dead,
        })
    }

    pub fn contents(&self) -> Contents {
        self.server.lock().unwrap().contents.clone()
    }

    pub fn set_mood(&self, mood: Mood) {
        let was = self.mood.borrow().0;
        self.mood.send_modify(|(now, _)| *now = mood);
        if was == Mood::Refuses {
            self.report_all(StoreEvent::Reconnected);
        }
    }

    /// Nothing passes between the store and a replica while `on`.
    pub fn partition(&self, replica: &ReplicaId, on: bool) {
        self.mood.send_modify(|(_, cut)| {
            if on {
                cut.insert(replica.clone());
            } else {
                cut.remove(replica);
            }
        });
    }

    /// Whether a replica could read anything now.
    pub fn is_reached_by(&self, replica: &ReplicaId) -> bool {
        let (mood, cut) = &*self.mood.borrow();
        !matches!(mood, Mood::Stalls | Mood::Refuses) && !cut.contains(replica)
    }

    /// A failover to a server that lacks the last writes.
    pub fn fail_over(&self, lost: Duration) {
        let before = Instant::now() - lost;
        {
            let mut server = self.server.lock().unwrap();
            let old = server.history.iter().find(|(at, _)| *at >= before);
            if let Some((_, contents)) = old.cloned() {
                server.contents = contents;
            }
        }
        self.report_all(StoreEvent::Reconnected);
    }

    /// Everything is gone, and nobody is told.
    pub fn empty(&self) {
        let mut server = self.server.lock().unwrap();
        server.contents = Contents::default();
        for client in server.clients.values_mut() {
            client.agents.clear();
        }
    }

    /// Reports to a replica are lost while `on`; then it is told so.
    pub fn deafen(&self, replica: &ReplicaId, on: bool) {
        let mut server = self.server.lock().unwrap();
        let Some(client) = server.clients.get_mut(replica) else {
            return;
        };
        client.deaf = on;
        if !on {
            let _ = client.events.try_send(StoreEvent::EventsMissed);
        }
    }

    fn report_all(&self, event: StoreEvent) {
        let mut server = self.server.lock().unwrap();
        for client in server.clients.values_mut() {
            client.agents.clear();
            let _ = client.events.try_send(event);
        }
    }
}

impl Server {
    fn change(&mut self, agent: AgentId, change: impl FnOnce(&mut Record)) {
        change(self.contents.records.entry(agent).or_default());
        for client in self.clients.values_mut() {
            if client.agents.remove(&agent) && !client.deaf {
                let _ = client.events.try_send(StoreEvent::RecordChanged(agent));
            }
        }
    }

    fn remember(&mut self) {
        let now = Instant::now();
        self.history.push_back((now, self.contents.clone()));
        while self
            .history
            .front()
            .is_some_and(|(at, _)| now - *at > HISTORY)
        {
            self.history.pop_front();
        }
    }
}

async fn work(
    server: Arc<SimServer>,
    me: ReplicaId,
    mut queue: mpsc::Receiver<Act>,
    dead: Arc<AtomicBool>,
) {
    let mut mood = server.mood.subscribe();
    while let Some(act) = queue.recv().await {
        let reaches = mood.wait_for(|(mood, cut)| *mood != Mood::Stalls && !cut.contains(&me));
        let now = reaches.await.map_or(Mood::Well, |state| state.0);
        let takes = if let Mood::Slow(millis) = now {
            millis
        } else {
            1
        };
        tokio::time::sleep(Duration::from_millis(takes)).await;
        if dead.load(Ordering::Relaxed) {
            return;
        }
        if now == Mood::Refuses {
            act(Err(StoreError::failed("sim", "connection refused")));
        } else {
            let mut server = server.server.lock().unwrap();
            server.remember();
            act(Ok(&mut server));
        }
    }
}

impl SimStore {
    /// The process that uses it is gone: nothing more is done for it.
    pub fn die(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// When agents' records were read or written.
    pub fn operations(&self) -> Vec<Instant> {
        self.operations.lock().unwrap().clone()
    }

    fn ask<T: Send + 'static>(
        &self,
        records: usize,
        act: impl FnOnce(&mut Server) -> T + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let (answer, answered) = oneshot::channel();
        let mut operations = self.operations.lock().unwrap();
        operations.extend(std::iter::repeat_n(Instant::now(), records));
        let sent = self.acts.try_send(Box::new(move |server| {
            let _ = answer.send(server.map(act));
        }));
        Box::pin(async move {
            let gone = |_| StoreError::failed("sim", "connection closed");
            sent.map_err(|_| StoreError::failed("sim", "connection closed"))?;
            answered.await.map_err(gone)?
        })
    }
}

impl RouteStore for SimStore {
    fn renew<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, Renewal> {
        let lease = lease.clone();
        let registered = self.registered.clone();
        self.ask(0, move |server| {
            registered.store(true, Ordering::Relaxed);
            let leases = &mut server.contents.leases;
            let existed = leases.insert(lease.replica.clone(), lease).is_some();
            Renewal {
                existed,
                leases: leases.values().cloned().collect(),
            }
        })
    }

    fn end_lease<'a>(&'a self, replica: &'a ReplicaId) -> StoreFuture<'a, ()> {
        let replica = replica.clone();
        self.ask(0, move |server| {
            server.contents.leases.remove(&replica);
        })
    }

    fn apply<'a>(&'a self, me: &'a Owner, changes: &'a [RouteChange]) -> StoreFuture<'a, ()> {
        let (me, changes) = (me.clone(), changes.to_vec());
        self.ask(changes.len(), move |server| {
            for change in changes {
                let (agent, gone, at) = match change {
                    RouteChange::Announce(agent) => (agent, me.replica.clone(), None),
                    RouteChange::Retract(agent, at) => (agent, me.replica.clone(), Some(at)),
                    RouteChange::RemoveDead(agent, replica, at) => (agent, replica, Some(at)),
                };
                server.change(agent, |record| {
                    record.owners.retain(|owner| owner.replica != gone);
                    match at {
                        Some(at) => record.last_seen = record.last_seen.max(Some(at)),
                        None => record.owners.push(me.clone()),
                    }
                });
            }
        })
    }

    fn read(&self, agent: AgentId) -> StoreFuture<'_, Record> {
        let me = self.me.clone();
        let registered = self.registered.load(Ordering::Relaxed);
        self.ask(1, move |server| {
            if let Some(client) = server.clients.get_mut(&me) {
                client.agents.insert(agent);
            }
            let record = server.contents.records.get(&agent);
            let mut record = record.cloned().unwrap_or_default();
            let lost = registered && !server.contents.leases.contains_key(&me);
            record.incomplete = record.is_empty() && lost;
            record
        })
    }

    fn update_presence<'a>(
        &'a self,
        _: &'a ReplicaId,
        _: &'a [PresenceUpdate],
    ) -> StoreFuture<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn find_presence<'a>(
        &'a self,
        _: &'a [ReplicaId],
        _: &'a PresenceQuery,
    ) -> StoreFuture<'a, Vec<PresenceEntry>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn events(&self) -> Option<mpsc::Receiver<StoreEvent>> {
        self.events.lock().unwrap().take()
    }
}
