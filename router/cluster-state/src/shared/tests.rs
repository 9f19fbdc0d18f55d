//! Two replicas over one store that is played.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::sync::mpsc;

use super::*;
use crate::{
    presence::PresenceUpdate,
    probe::Liveness,
    store::{Lease, Record, Renewal, RouteChange, StoreFuture},
};

const A: AgentId = AgentId(7);

/// What the clients of a played store share.
#[derive(Debug, Default)]
struct World {
    leases: BTreeMap<String, Lease>,
    records: HashMap<AgentId, Record>,
    presence: BTreeMap<(String, AgentId), Presence>,
    clients: Vec<Client>,
    unavailable: bool,
    /// Who does not reach the store, and says so to whoever asks.
    cut_off: HashSet<String>,
    /// Whose process has ended.
    ended: HashSet<String>,
    /// How long the leases that were read are on their way.
    slow: Duration,
    reads: usize,
    writes: usize,
}

#[derive(Debug)]
struct Client {
    events: mpsc::Sender<StoreEvent>,
    armed: HashSet<AgentId>,
}

/// One replica's way to it.
#[derive(Debug)]
struct Played {
    world: Arc<Mutex<World>>,
    name: String,
    client: usize,
    events: Mutex<Option<mpsc::Receiver<StoreEvent>>>,
}

impl World {
    fn change(&mut self, agent: AgentId) {
        for client in &mut self.clients {
            if client.armed.remove(&agent) {
                client
                    .events
                    .try_send(StoreEvent::RecordChanged(agent))
                    .unwrap();
            }
        }
    }
}

impl Played {
    fn new(world: &Arc<Mutex<World>>, name: &str) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(1000);
        let mut locked = world.lock().unwrap();
        locked.clients.push(Client {
            events: sender,
            armed: HashSet::new(),
        });
        Arc::new(Self {
            world: world.clone(),
            name: name.to_owned(),
            client: locked.clients.len() - 1,
            events: Mutex::new(Some(receiver)),
        })
    }

    fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut World, usize) -> T,
    ) -> StoreFuture<'_, T> {
        let mut world = self.world.lock().unwrap();
        let answer = if world.unavailable || world.cut_off.contains(&self.name) {
            Err(StoreError::failed("played", "unavailable"))
        } else {
            Ok(act(&mut world, self.client))
        };
        Box::pin(std::future::ready(answer))
    }
}

impl RouteStore for Played {
    fn renew<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, Renewal> {
        let renewal = self.with(|world, _| {
            let id = lease.replica.to_string();
            let existed = world.leases.insert(id, lease.clone()).is_some();
            let leases = world.leases.values().cloned().collect();
            Renewal { existed, leases }
        });
        let slow = self.world.lock().unwrap().slow;
        if slow.is_zero() {
            return renewal;
        }
        Box::pin(async move {
            tokio::time::sleep(slow).await;
            renewal.await
        })
    }

    fn end_lease<'a>(&'a self, replica: &'a ReplicaId) -> StoreFuture<'a, ()> {
        self.with(|world, _| {
            let replica = replica.to_string();
            world.presence.retain(|(of, _), _| *of != replica);
            world.leases.remove(&replica);
        })
    }

    fn apply<'a>(&'a self, me: &'a Owner, changes: &'a [RouteChange]) -> StoreFuture<'a, ()> {
        self.with(|world, _| {
            for change in changes {
                world.writes += 1;
                let (agent, replica) = match change {
                    RouteChange::Announce(agent) | RouteChange::Retract(agent, _) => {
                        (*agent, &me.replica)
                    }
                    RouteChange::RemoveDead(agent, replica, _) => (*agent, replica),
                };
                let record = world.records.entry(agent).or_default();
                record.owners.retain(|owner| owner.replica != *replica);
                match change {
                    RouteChange::Announce(_) => record.owners.push(me.clone()),
                    RouteChange::Retract(_, at) | RouteChange::RemoveDead(_, _, at) => {
                        record.last_seen = Some(record.last_seen.unwrap_or(0).max(*at));
                    }
                }
                world.change(agent);
            }
        })
    }

    fn read(&self, agent: AgentId) -> StoreFuture<'_, Record> {
        self.with(|world, client| {
            world.reads += 1;
            world.clients[client].armed.insert(agent);
            world.records.get(&agent).cloned().unwrap_or_default()
        })
    }

    fn update_presence<'a>(
        &'a self,
        me: &'a ReplicaId,
        updates: &'a [PresenceUpdate],
    ) -> StoreFuture<'a, ()> {
        self.with(|world, _| {
            for PresenceUpdate { agent, new, .. } in updates {
                world.writes += 1;
                let key = (me.to_string(), *agent);
                match new {
                    Some(new) => world.presence.insert(key, new.clone()),
                    None => world.presence.remove(&key),
                };
            }
        })
    }

    fn find_presence<'a>(
        &'a self,
        replicas: &'a [ReplicaId],
        query: &'a PresenceQuery,
    ) -> StoreFuture<'a, Vec<PresenceEntry>> {
        self.with(|world, _| {
            let entries = world
                .presence
                .iter()
                .map(|((replica, agent), presence)| PresenceEntry {
                    replica: ReplicaId::new(replica),
                    agent: *agent,
                    presence: presence.clone(),
                });
            entries
                .filter(|it| replicas.contains(&it.replica))
                .filter(|it| query.includes(it.agent, it.presence.group))
                .collect()
        })
    }

    fn events(&self) -> Option<mpsc::Receiver<StoreEvent>> {
        self.events.lock().unwrap().take()
    }
}

impl PeerProbe for Played {
    fn probe<'a>(&'a self, replica: &'a Owner) -> TableFuture<'a, Liveness> {
        let world = self.world.lock().unwrap();
        let name = replica.replica.to_string();
        let liveness = match name {
            _ if world.cut_off.contains(&name) => Liveness::Alive,
            _ if world.ended.contains(&name) => Liveness::Gone,
            _ => Liveness::Unknown,
        };
        Box::pin(std::future::ready(liveness))
    }
}

fn replica(world: &Arc<Mutex<World>>, name: &str) -> Arc<SharedTable> {
    let me = owner(name);
    let settings = TableSettings {
        clock: || 1000,
        ..TableSettings::default()
    };
    let store = Played::new(world, name);
    SharedTable::start(store.clone(), store, me, "1", settings)
}

fn owner(name: &str) -> Owner {
    Owner {
        replica: ReplicaId::new(name),
        url: format!("grpc://{name}"),
    }
}

/// Lets time pass until `probe` holds; fails after a minute of it.
async fn until<F: Future<Output = bool>>(probe: impl Fn() -> F) {
    let wait = async {
        while !probe().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect("it never came to hold");
}

async fn two() -> (Arc<Mutex<World>>, Arc<SharedTable>, Arc<SharedTable>) {
    let world = Arc::default();
    let (a, b) = (replica(&world, "a"), replica(&world, "b"));
    until(|| async { a.stats().replicas == 2 && b.stats().replicas == 2 }).await;
    (world, a, b)
}

fn presence(text: &str) -> Option<Presence> {
    Some(Presence {
        group: 1,
        text: text.into(),
    })
}

async fn texts(table: &SharedTable, query: &PresenceQuery) -> Vec<String> {
    let found = table.find_presence(query).await.unwrap();
    found
        .iter()
        .map(|it| it.presence.text.to_string())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn presence_is_found_everywhere_until_its_replica_leaves() {
    let (world, a, b) = two().await;
    a.set_presence(A, presence("at a"));
    b.set_presence(A, presence("at b"));
    let (all, none) = (
        PresenceQuery::Agents(vec![A]),
        PresenceQuery::Groups(vec![2]),
    );
    until(|| async { texts(&a, &all).await == ["at b", "at a"] }).await;
    until(|| async { texts(&b, &PresenceQuery::Groups(vec![1])).await == ["at a", "at b"] }).await;
    assert!(texts(&a, &none).await.is_empty());

    a.leave().await;

    assert_eq!(world.lock().unwrap().presence.len(), 1);
    until(|| async { texts(&b, &all).await == ["at b"] }).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_everything_gets_all_presence_again() {
    let (world, a, b) = two().await;
    a.set_presence(A, presence("at a"));
    until(|| async { texts(&b, &PresenceQuery::All).await == ["at a"] }).await;

    {
        let mut world = world.lock().unwrap();
        world.presence.clear();
        world.leases.clear();
    }

    until(|| async { texts(&b, &PresenceQuery::All).await == ["at a"] }).await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_woken_by_an_announcement() {
    let (_world, a, b) = two().await;
    let mut changes = b.changes(A);
    assert_eq!(b.owners(A).await, []);
    assert_eq!(b.last_seen(A).await, None);
    changes.mark_unchanged();

    a.announce(A);

    changes.changed().await.unwrap();
    assert_eq!(b.owners(A).await, [owner("a")]);
    assert_eq!(b.last_seen(A).await, Some(Duration::ZERO));
    assert_eq!(
        a.owners(A).await,
        [],
        "a replica does not forward to itself"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_known_costs_no_reading_however_often_it_is_asked_for() {
    let (world, a, b) = two().await;
    a.announce(A);
    until(|| async { !b.owners(A).await.is_empty() }).await;
    let reads = world.lock().unwrap().reads;

    for _ in 0..100 {
        assert_eq!(b.owners(A).await, [owner("a")]);
    }

    assert_eq!(world.lock().unwrap().reads, reads);
}

#[tokio::test(start_paused = true)]
async fn the_entries_of_a_dead_replica_are_removed_and_its_lease_ends() {
    let (world, a, b) = two().await;
    a.announce(A);
    until(|| async { !b.owners(A).await.is_empty() }).await;

    drop(a);

    until(|| async { b.owners(A).await.is_empty() }).await;
    until(|| async { world.lock().unwrap().records[&A].owners.is_empty() }).await;
    assert!(!world.lock().unwrap().leases.contains_key("a"));
    let seen = b.last_seen(A).await;
    assert!(seen.is_some_and(|ago| !ago.is_zero()), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn one_whose_connection_broke_is_forgotten_within_a_second_if_its_process_has_ended_only() {
    let (world, a, b) = two().await;
    a.announce(A);
    until(|| async { b.owners(A).await == [owner("a")] }).await;
    let second = Duration::from_secs(1);

    b.connection_lost(&owner("a").url);
    tokio::time::sleep(second).await;
    assert_eq!(b.owners(A).await, [owner("a")], "nothing is known of it");

    world.lock().unwrap().ended.insert("a".into());
    drop(a);
    b.connection_lost(&owner("a").url);
    tokio::time::sleep(second).await;

    assert_eq!(b.owners(A).await, []);
    assert_eq!(b.stats().replicas, 1);
    assert_eq!(b.last_seen(A).await, Some(second), "it may come back");
    until(|| async { world.lock().unwrap().records[&A].owners.is_empty() }).await;
    assert!(!world.lock().unwrap().leases.contains_key("a"));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_read_before_its_replica_was_found_dead_does_not_bring_it_back() {
    let (world, a, b) = two().await;
    drop(a);
    {
        let mut world = world.lock().unwrap();
        world.ended.insert("a".into());
        world.slow = Duration::from_millis(50);
        // It renewed once more before it ended.
        world.leases.get_mut("a").unwrap().beat += 1;
    }

    b.connection_lost(&owner("a").url);
    tokio::time::sleep(Duration::from_secs(1)).await;

    assert_eq!(b.stats().replicas, 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_taken_for_dead_announces_its_agents_again() {
    let (world, a, b) = two().await;
    a.announce(A);
    until(|| async { !b.owners(A).await.is_empty() }).await;

    {
        let mut world = world.lock().unwrap();
        world.leases.remove("a");
        world.records.clear();
        world.change(A);
    }

    let written = || {
        let world = world.lock().unwrap();
        let record = world.records.get(&A);
        record.is_some_and(|record| record.owners == [owner("a")])
    };
    until(|| async { written() }).await;
    until(|| async { b.owners(A).await == [owner("a")] }).await;
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_store_leaves_what_is_known_and_else_all_are_asked() {
    let (world, a, b) = two().await;
    a.announce(A);
    until(|| async { !b.owners(A).await.is_empty() }).await;

    world.lock().unwrap().unavailable = true;
    until(|| async { !b.is_authoritative() }).await;

    assert_eq!(b.owners(A).await, [owner("a")]);
    assert_eq!(b.owners(AgentId(8)).await, [owner("a")]);
    a.announce(AgentId(9));
    tokio::time::sleep(Duration::from_secs(1800)).await;
    {
        let mut world = world.lock().unwrap();
        world.unavailable = false;
        world.records.clear();
        world.leases.clear();
    }
    until(|| async { b.is_authoritative() }).await;
    assert_eq!(b.owners(A).await, [owner("a")]);
    assert_eq!(b.owners(AgentId(9)).await, [owner("a")]);
    assert_eq!(b.owners(AgentId(8)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_alone_is_cut_off_from_the_store_keeps_its_agents_and_gets_others() {
    let (world, a, b) = two().await;
    let mut changes = b.changes(AgentId(8));
    a.announce(A);
    until(|| async { !b.owners(A).await.is_empty() }).await;

    world.lock().unwrap().cut_off.insert("a".into());
    a.announce(AgentId(8));
    changes.mark_unchanged();
    until(|| async { !b.is_authoritative() }).await;

    assert!(changes.has_changed().unwrap(), "those who hold look again");
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(180)).await;
        assert_eq!(b.owners(A).await, [owner("a")]);
        assert_eq!(b.owners(AgentId(8)).await, [owner("a")]);
    }
    world.lock().unwrap().cut_off.clear();
    until(|| async { b.is_authoritative() }).await;
    assert_eq!(b.owners(AgentId(8)).await, [owner("a")]);
    assert_eq!(b.owners(AgentId(9)).await, []);
}

#[tokio::test(start_paused = true)]
async fn those_that_leave_are_asked_last_and_leave_nothing_behind() {
    let (world, a, b) = two().await;
    let c = replica(&world, "c");
    for table in [&a, &c] {
        table.announce(A);
    }
    until(|| async { b.owners(A).await.len() == 2 }).await;
    let first = b.owners(A).await[0].clone();
    let (leaver, stayer) = if first == owner("a") {
        (&a, &c)
    } else {
        (&c, &a)
    };

    leaver.drain();

    until(|| async { b.owners(A).await[1] == first }).await;
    leaver.leave().await;
    let left = world.lock().unwrap().records[&A].owners.clone();
    assert_eq!(left, std::slice::from_ref(&stayer.inner.me));
    assert!(
        !world
            .lock()
            .unwrap()
            .leases
            .contains_key(&first.replica.to_string())
    );
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_owner_is_asked_last_until_it_renews_its_lease() {
    let (world, a, b) = two().await;
    let c = replica(&world, "c");
    for table in [&a, &c] {
        table.announce(A);
    }
    until(|| async { b.owners(A).await.len() == 2 }).await;
    let first = b.owners(A).await[0].clone();

    b.mark_unreachable(&first.replica);

    assert_eq!(b.owners(A).await[1], first);
    until(|| async { b.owners(A).await[0] == first }).await;
}

#[tokio::test(start_paused = true)]
async fn a_fleet_at_rest_costs_the_store_leases_only() {
    let (world, a, _b) = two().await;
    for id in 0..10_000 {
        a.announce(AgentId(id));
    }
    until(|| async { a.stats().pending == 0 }).await;
    let writes = world.lock().unwrap().writes;

    tokio::time::sleep(Duration::from_secs(3600)).await;

    assert_eq!(writes, 10_000);
    assert_eq!(world.lock().unwrap().writes, writes);
}
