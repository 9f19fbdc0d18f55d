//! A routing table within one process, shared by the replicas in it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    cluster_pins::{ClusterPins, ClusterUid},
    connection_record::{ConnectionRecord, ConnectionRecords, RecordSubject, RecordsPage, page_of},
    id::{AgentId, Owner, ReplicaId},
    member::{Member, MemberState},
    presence::{Presence, PresenceEntry, PresenceQuery},
    ring::Ring,
    store::{StoreError, StoreFuture},
    table::{RoutingTable, TableFuture},
};

/// The table of all replicas in this process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    agents: Arc<Mutex<HashMap<AgentId, Entry>>>,
    presence: Arc<Mutex<HashMap<(AgentId, ReplicaId), Presence>>>,
    /// Each with its URL.
    replicas: Arc<Mutex<BTreeMap<ReplicaId, String>>>,
    records: Arc<MemoryRecords>,
    pins: Arc<MemoryPins>,
}

/// The connection records of all replicas in this process.
#[derive(Debug, Default)]
struct MemoryRecords(Mutex<HashMap<RecordSubject, VecDeque<ConnectionRecord>>>);

/// The cluster pins of all replicas in this process.
#[derive(Debug, Default)]
struct MemoryPins(Mutex<HashMap<AgentId, Option<ClusterUid>>>);

#[derive(Debug)]
struct Entry {
    owners: Vec<Owner>,
    changes: watch::Sender<u64>,
    last_seen: Option<Instant>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            owners: Vec::new(),
            changes: watch::Sender::new(0),
            last_seen: None,
        }
    }
}

/// The table, as one replica uses it.
#[derive(Debug)]
pub struct MemoryTable {
    store: MemoryStore,
    me: Owner,
}

impl MemoryStore {
    /// The table for the replica `me`.
    #[must_use]
    pub fn table(&self, me: Owner) -> MemoryTable {
        self.replicas().insert(me.replica.clone(), me.url.clone());
        MemoryTable {
            store: self.clone(),
            me,
        }
    }

    /// All owners of an agent.
    #[must_use]
    pub fn owners(&self, agent: AgentId) -> Vec<Owner> {
        self.lock()
            .get(&agent)
            .map(|entry| entry.owners.clone())
            .unwrap_or_default()
    }

    /// Changes whenever the owners of the agent change.
    #[must_use]
    pub fn changes(&self, agent: AgentId) -> watch::Receiver<u64> {
        self.lock().entry(agent).or_default().changes.subscribe()
    }

    /// What happened to the connections of each agent.
    #[must_use]
    pub fn connection_records(&self) -> Arc<dyn ConnectionRecords> {
        self.records.clone()
    }

    /// Which cluster each agent belongs to.
    #[must_use]
    pub fn cluster_pins(&self) -> Arc<dyn ClusterPins> {
        self.pins.clone()
    }

    #[cfg(test)]
    pub(crate) fn subjects_with_records(&self) -> usize {
        lock(&self.records.0).len()
    }

    fn change(&self, agent: AgentId, change: impl FnOnce(&mut Entry)) {
        let mut agents = self.lock();
        let entry = agents.entry(agent).or_default();
        change(entry);
        let changes = entry.changes.clone();
        // Whoever waits for a change may look here while it holds what is locked to tell it.
        drop(agents);
        changes.send_modify(|version| *version += 1);
    }

    fn presence(&self) -> MutexGuard<'_, HashMap<(AgentId, ReplicaId), Presence>> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replicas(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, String>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Entry>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionRecords for MemoryRecords {
    fn append<'a>(
        &'a self,
        subject: RecordSubject,
        records: &'a [ConnectionRecord],
    ) -> StoreFuture<'a, ()> {
        let mut all = lock(&self.0);
        // An agent that stays connected has one: a queue that grows by itself would have room for four.
        let ring = all.entry(subject);
        let ring = ring.or_insert_with(|| VecDeque::with_capacity(records.len()));
        for record in records {
            ring.push_front(record.clone());
        }
        ring.truncate(subject.bound());
        Box::pin(std::future::ready(Ok(())))
    }

    fn read(
        &self,
        subject: RecordSubject,
        page: RecordsPage,
    ) -> StoreFuture<'_, Vec<ConnectionRecord>> {
        let all = lock(&self.0);
        let ring = all.get(&subject).into_iter().flatten().cloned();
        Box::pin(std::future::ready(Ok(page_of(ring, page))))
    }
}

impl ClusterPins for MemoryPins {
    fn all(&self) -> StoreFuture<'_, HashMap<AgentId, Option<ClusterUid>>> {
        Box::pin(std::future::ready(Ok(lock(&self.0).clone())))
    }

    fn read(&self, agent: AgentId) -> StoreFuture<'_, Option<ClusterUid>> {
        let pin = lock(&self.0).get(&agent).cloned().flatten();
        Box::pin(std::future::ready(Ok(pin)))
    }

    fn pin_first<'a>(
        &'a self,
        agent: AgentId,
        cluster: &'a ClusterUid,
    ) -> StoreFuture<'a, ClusterUid> {
        let mut pins = lock(&self.0);
        let pin = pins.entry(agent).or_default();
        let pinned = pin.get_or_insert_with(|| cluster.clone()).clone();
        Box::pin(std::future::ready(Ok(pinned)))
    }

    fn set<'a>(&'a self, agent: AgentId, cluster: Option<&'a ClusterUid>) -> StoreFuture<'a, ()> {
        lock(&self.0).insert(agent, cluster.cloned());
        Box::pin(std::future::ready(Ok(())))
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RoutingTable for MemoryTable {
    fn announce(&self, agent: AgentId) {
        self.store.change(agent, |entry| {
            entry
                .owners
                .retain(|owner| owner.replica != self.me.replica);
            // Most have one owner.
            entry.owners.reserve_exact(1);
            entry.owners.push(self.me.clone());
        });
    }

    fn retract(&self, agent: AgentId) {
        self.store.change(agent, |entry| {
            entry
                .owners
                .retain(|owner| owner.replica != self.me.replica);
            entry.last_seen = Some(Instant::now());
        });
    }

    fn owners(&self, agent: AgentId) -> TableFuture<'_, Vec<Owner>> {
        let mut owners = self.store.owners(agent);
        owners.retain(|owner| owner.replica != self.me.replica);
        // The newest announcement is the likeliest to hold.
        owners.reverse();
        Box::pin(std::future::ready(owners))
    }

    fn changes(&self, agent: AgentId) -> watch::Receiver<u64> {
        self.store.changes(agent)
    }

    fn last_seen(&self, agent: AgentId) -> TableFuture<'_, Option<Duration>> {
        let seen = self.store.lock().get(&agent).and_then(|entry| {
            if entry.owners.is_empty() {
                entry.last_seen.map(|at| at.elapsed())
            } else {
                Some(Duration::ZERO)
            }
        });
        Box::pin(std::future::ready(seen))
    }

    fn set_presence(&self, agent: AgentId, presence: Option<Presence>) {
        let key = (agent, self.me.replica.clone());
        let mut all = self.store.presence();
        match presence {
            Some(presence) => all.insert(key, presence),
            None => all.remove(&key),
        };
    }

    fn find_presence<'a>(
        &'a self,
        query: &'a PresenceQuery,
    ) -> TableFuture<'a, Result<Vec<PresenceEntry>, StoreError>> {
        let all = self.store.presence();
        let entries = all
            .iter()
            .map(|((agent, replica), presence)| PresenceEntry {
                replica: replica.clone(),
                agent: *agent,
                presence: presence.clone(),
            });
        let found = entries.filter(|it| query.includes(it.agent, it.presence.group));
        Box::pin(std::future::ready(Ok(found.collect())))
    }

    fn ring(&self) -> Ring {
        Ring::new(self.store.replicas().keys())
    }

    fn members(&self) -> Vec<Member> {
        let replicas = self.store.replicas();
        let member = |(replica, url): (&ReplicaId, &String)| Member {
            replica: Owner {
                replica: replica.clone(),
                url: url.clone(),
            },
            version: String::new(),
            state: MemberState::Serving,
            load: None,
        };
        replicas.iter().map(member).collect()
    }

    fn is_authoritative(&self) -> bool {
        true
    }

    fn is_authoritative_for(&self, _: AgentId) -> bool {
        true
    }

    /// Replicas of one process always reach each other.
    fn mark_unreachable(&self, _: &ReplicaId) {}

    /// The process ends with all its replicas, so none is preferred.
    fn drain(&self) {}

    fn leave(&self) -> TableFuture<'_, ()> {
        let mine = {
            let agents = self.store.lock();
            let holds = |entry: &Entry| entry.owners.iter().any(|it| it.replica == self.me.replica);
            let mine = agents.iter().filter(|(_, entry)| holds(entry));
            mine.map(|(agent, _)| *agent).collect::<Vec<_>>()
        };
        for agent in mine {
            self.retract(agent);
        }
        let me = &self.me.replica;
        self.store.replicas().remove(me);
        self.store
            .presence()
            .retain(|(_, replica), _| replica != me);
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Owner {
        Owner {
            replica: ReplicaId::new(name),
            url: format!("grpc://{name}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn others_see_what_a_replica_announces_until_it_retracts() {
        let store = MemoryStore::default();
        let (a, b) = (store.table(owner("a")), store.table(owner("b")));
        let agent = AgentId(7);
        let mut changes = b.changes(agent);
        assert_eq!(b.last_seen(agent).await, None);

        a.announce(agent);
        changes.changed().await.unwrap();
        assert_eq!(b.owners(agent).await, [owner("a")]);
        assert_eq!(
            a.owners(agent).await,
            [],
            "a replica does not forward to itself"
        );

        a.retract(agent);
        changes.changed().await.unwrap();
        assert_eq!(b.owners(agent).await, []);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(b.last_seen(agent).await, Some(Duration::from_secs(3)));
    }

    #[test]
    fn who_looks_while_a_change_is_told_waits_for_nobody() {
        let store = MemoryStore::default();
        let agent = AgentId(7);
        let changes = store.changes(agent);
        let looks = changes.borrow();
        let table = store.table(owner("a"));
        let announcing = std::thread::spawn(move || table.announce(agent));

        let (seen, is_seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            while store.owners(agent).is_empty() {
                std::thread::yield_now();
            }
            seen.send(()).unwrap();
        });
        let found = is_seen.recv_timeout(Duration::from_secs(60));

        assert!(found.is_ok(), "both wait for each other");
        drop(looks);
        announcing.join().unwrap();
    }
}
