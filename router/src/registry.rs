//! The tunnels that end on this replica, and the requests that wait for one.
//!
//! Side effects (waking, announcing) happen after the lock of a shard is
//! released; no lock is held across an await.

mod callers;
mod queue;
mod state;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cluster_state::{AgentId, RoutingTable};
use foldhash::fast::RandomState;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    error::OpenError,
    reader::Readers,
    refusal::Refusal,
    search::Need,
    tunnel::{IdleWatch, Offer, Slot, Stream, Tunnel},
};
use state::{Agent, Limits};

const SHARDS: usize = 64;
/// How often it is looked whether it did.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Requests that may wait for one agent at once. Others keep room when one
/// caller has all it may have.
const MAX_WAITING: Limits = Limits {
    of_agent: 3000,
    of_caller: 1000,
};

/// All tunnels of this replica.
#[derive(Debug)]
pub struct Registry {
    me: Weak<Self>,
    shards: [Mutex<HashMap<AgentId, Agent, RandomState>>; SHARDS],
    table: Arc<dyn RoutingTable>,
    idle: AtomicUsize,
    alive: AtomicUsize,
    readers: Arc<Readers>,
}

/// Held by every tunnel as long as its stream lives, idle or in use.
#[derive(Debug)]
pub struct Alive {
    agent: AgentId,
    registry: Weak<Registry>,
}

/// Held by whoever has a tunnel for a caller: it counts for that caller until it is dropped.
#[derive(Debug)]
pub(crate) struct InUse {
    agent: AgentId,
    caller: Arc<str>,
    registry: Weak<Registry>,
}

/// What a replica knows of an agent's tunnels by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Presence {
    /// Tunnels that wait for a call.
    pub idle: usize,
    /// Tunnels, idle or in use.
    pub alive: usize,
    /// When the last tunnel ended, if none is alive.
    pub last_seen: Option<Instant>,
}

/// A request's place in the queue for a tunnel. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Waiting(oneshot::Receiver<Tunnel>);

impl Waiting {
    /// Waits for a tunnel; `None` when the registry is gone.
    pub async fn tunnel(self) -> Option<Tunnel> {
        self.0.await.ok()
    }

    /// The same through a reference. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Tunnel> {
        (&mut self.0).await.ok()
    }
}

impl Registry {
    /// An empty registry that announces its agents to `table`.
    #[must_use]
    pub fn new(table: Arc<dyn RoutingTable>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            shards: std::array::from_fn(|_| Mutex::default()),
            table,
            idle: AtomicUsize::new(0),
            alive: AtomicUsize::new(0),
            readers: Arc::default(),
        })
    }

    /// Takes in a tunnel that just opened: gives it to a waiting request, or
    /// keeps it. The connection must poll the returned watch.
    pub fn park(&self, offer: Offer, stream: Stream) -> IdleWatch {
        let alive = self.born(offer.agent);
        let slot = Slot::new(offer, stream, self.me.clone(), alive);
        self.put_back(&slot);
        IdleWatch::new(slot)
    }

    /// An idle tunnel for `need`, if there is one.
    pub fn take(&self, agent: AgentId, need: &Need) -> Option<Tunnel> {
        let tunnel = self.shard(agent).get_mut(&agent)?.take(need)?;
        self.idle.fetch_sub(1, Ordering::Relaxed);
        Some(tunnel.used(self.in_use(agent, need)))
    }

    /// Queues for a tunnel: callers take turns, each served in its own order.
    ///
    /// # Errors
    /// [`OpenError::TooManyWaiting`] when the queue is full.
    pub fn wait(&self, agent: AgentId, need: &Need) -> Result<Waiting, OpenError> {
        let mut shard = self.shard(agent);
        let entry = shard.entry(agent).or_default();
        if !entry.has_room(&need.caller, MAX_WAITING) {
            return Err(OpenError::TooManyWaiting);
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(tunnel) = entry.take(need) {
            self.idle.fetch_sub(1, Ordering::Relaxed);
            drop(shard);
            sender
                .send(tunnel.used(self.in_use(agent, need)))
                .expect("the receiver is in this function");
        } else {
            entry.wait(need.clone(), sender);
        }
        Ok(Waiting(receiver))
    }

    /// What is known of an agent here.
    #[must_use]
    pub fn presence(&self, agent: AgentId) -> Presence {
        self.shard(agent)
            .get(&agent)
            .map(Agent::presence)
            .unwrap_or_default()
    }

    /// Why none of the agent's tunnels here serves the call, if there are any.
    pub(crate) fn refusal(&self, agent: AgentId, need: &Need) -> Option<Refusal> {
        self.shard(agent).get(&agent)?.refusal(need)
    }

    /// Completes when there has been a refusal for as long as it may pass.
    pub(crate) async fn stays_refused(&self, agent: AgentId, need: &Need) -> Refusal {
        let mut since = None;
        loop {
            match self.refusal(agent, need) {
                Some(refusal) => {
                    let since: &mut Instant = since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= refusal.patience() {
                        return refusal;
                    }
                }
                None => since = None,
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Who reads answers of agents, through tunnels of this replica or of others.
    #[must_use]
    pub fn readers(&self) -> &Arc<Readers> {
        &self.readers
    }

    /// Numbers of idle and of all tunnels.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (
            self.idle.load(Ordering::Relaxed),
            self.alive.load(Ordering::Relaxed),
        )
    }

    /// Agents with at least one tunnel here.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentId> {
        self.shards
            .iter()
            .flat_map(|shard| {
                let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                let connected = shard.iter().filter(|(_, entry)| entry.presence().alive > 0);
                connected.map(|(agent, _)| *agent).collect::<Vec<_>>()
            })
            .collect()
    }

    pub(crate) fn put_back(&self, slot: &Arc<Slot>) {
        let agent = slot.offer.agent;
        loop {
            let waiter = {
                let mut shard = self.shard(agent);
                let entry = shard.entry(agent).or_default();
                let waiter = entry.next_waiter(&slot.offer);
                if waiter.is_none() {
                    entry.keep(slot.clone());
                    self.idle.fetch_add(1, Ordering::Relaxed);
                }
                waiter
            };
            let Some(waiter) = waiter else {
                // Its watch may have found it dead before it was in the list.
                if slot.is_gone() {
                    self.forget(slot);
                }
                return;
            };
            let in_use = self.in_use(agent, &waiter.need);
            let Some(tunnel) = slot.reserve() else { return };
            match waiter.sender.send(tunnel.used(in_use)) {
                Ok(()) => return,
                // The request left meanwhile: on to the next.
                Err(tunnel) => tunnel.unreserve(),
            }
        }
    }

    fn in_use(&self, agent: AgentId, need: &Need) -> InUse {
        InUse {
            agent,
            caller: need.caller.clone(),
            registry: self.me.clone(),
        }
    }

    /// A caller uses one tunnel less, which may let it, or another, have an idle one.
    fn gave_back(&self, agent: AgentId, caller: &str) {
        if let Some(entry) = self.shard(agent).get_mut(&agent) {
            entry.gave_back(caller);
        }
        loop {
            let pair = self.shard(agent).get_mut(&agent).and_then(Agent::next_pair);
            let Some((waiter, tunnel)) = pair else {
                return;
            };
            self.idle.fetch_sub(1, Ordering::Relaxed);
            let in_use = self.in_use(agent, &waiter.need);
            // A request that left meanwhile leaves the tunnel, which is put back.
            drop(waiter.sender.send(tunnel.used(in_use)));
        }
    }

    pub(crate) fn forget(&self, slot: &Arc<Slot>) {
        let mut shard = self.shard(slot.offer.agent);
        if shard
            .get_mut(&slot.offer.agent)
            .is_some_and(|entry| entry.forget(slot))
        {
            self.idle.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn born(&self, agent: AgentId) -> Alive {
        self.alive.fetch_add(1, Ordering::Relaxed);
        let first = self.shard(agent).entry(agent).or_default().born();
        if first {
            self.table.announce(agent);
        }
        Alive {
            agent,
            registry: self.me.clone(),
        }
    }

    fn died(&self, agent: AgentId) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
        let last = self
            .shard(agent)
            .entry(agent)
            .or_default()
            .died(Instant::now());
        if last {
            self.table.retract(agent);
        }
    }

    fn shard(&self, agent: AgentId) -> MutexGuard<'_, HashMap<AgentId, Agent, RandomState>> {
        let index = usize::try_from(agent.0.unsigned_abs() % SHARDS as u64).unwrap_or(0);
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.gave_back(self.agent, &self.caller);
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.died(self.agent);
        }
    }
}
