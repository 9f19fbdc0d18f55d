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
    error::{MAX_QUEUED_PER_AGENT, MAX_QUEUED_PER_CALLER, OpenError},
    opening::Need,
    reader::Readers,
    refusal::Refusal,
    tunnel::{IdleWatch, Offer, Slot, Stream, Tunnel, TunnelPool, UsageGuard},
};
use state::{Agent, Limits};

const SHARDS: usize = 64;
/// How often a waiting request checks whether it is still refused.
const REFUSAL_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Requests that may be queued for one agent.
const QUEUE_LIMITS: Limits = Limits {
    of_agent: MAX_QUEUED_PER_AGENT,
    of_caller: MAX_QUEUED_PER_CALLER,
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

/// An agent's tunnels to this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentTunnels {
    /// Idle tunnels.
    pub idle: usize,
    /// Tunnels, idle and in use.
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

    /// Waits for a tunnel. Cancel-safe.
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

    /// Adds a new tunnel: it goes to a waiting request, or stays idle. The
    /// connection must poll the returned watch.
    pub fn park(&self, offer: Offer, stream: Stream) -> IdleWatch {
        self.tunnel_opened(&offer);
        let slot = Slot::new(offer, stream, self.me.clone());
        self.put_back(&slot);
        IdleWatch::new(slot)
    }

    /// An idle tunnel for `need`, if there is one.
    pub fn take(&self, agent: AgentId, need: &Need) -> Option<Tunnel> {
        let tunnel = self.shard(agent).get_mut(&agent)?.take(need)?;
        self.idle.fetch_sub(1, Ordering::Relaxed);
        Some(tunnel.used(self.usage(agent, need)))
    }

    /// Queues for a tunnel: callers take turns, each served in its own order.
    ///
    /// # Errors
    /// [`OpenError::TooManyWaiting`] when the queue is full.
    pub fn wait(&self, agent: AgentId, need: &Need) -> Result<Waiting, OpenError> {
        let mut shard = self.shard(agent);
        let entry = shard.entry(agent).or_default();
        if !entry.has_room(&need.caller, QUEUE_LIMITS) {
            return Err(OpenError::TooManyWaiting);
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(tunnel) = entry.take(need) {
            self.idle.fetch_sub(1, Ordering::Relaxed);
            drop(shard);
            sender
                .send(tunnel.used(self.usage(agent, need)))
                .expect("the receiver is in this function");
        } else {
            entry.wait(need.clone(), sender);
        }
        Ok(Waiting(receiver))
    }

    /// The agent's tunnels to this replica.
    #[must_use]
    pub fn tunnels(&self, agent: AgentId) -> AgentTunnels {
        self.shard(agent)
            .get(&agent)
            .map(Agent::tunnels)
            .unwrap_or_default()
    }

    /// Why none of the agent's tunnels here can serve the call; `None` if one can or there are none.
    pub(crate) fn refusal(&self, agent: AgentId, need: &Need) -> Option<Refusal> {
        self.shard(agent).get(&agent)?.refusal(need)
    }

    /// Completes when the call was refused for as long as the reason may pass by itself.
    pub(crate) async fn persistent_refusal(&self, agent: AgentId, need: &Need) -> Refusal {
        let mut since = None;
        loop {
            match self.refusal(agent, need) {
                Some(refusal) => {
                    let since: &mut Instant = since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= refusal.hold_time() {
                        return refusal;
                    }
                }
                None => since = None,
            }
            tokio::time::sleep(REFUSAL_CHECK_INTERVAL).await;
        }
    }

    /// The calls whose responses are being read, through tunnels of this replica or of peers.
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
                let connected = shard.iter().filter(|(_, entry)| entry.tunnels().alive > 0);
                connected.map(|(agent, _)| *agent).collect::<Vec<_>>()
            })
            .collect()
    }

    fn usage(&self, agent: AgentId, need: &Need) -> UsageGuard {
        UsageGuard {
            agent,
            caller: need.caller.clone(),
            pool: self.me.clone(),
        }
    }

    fn tunnel_opened(&self, offer: &Offer) {
        self.alive.fetch_add(1, Ordering::Relaxed);
        let agent = offer.agent;
        let mut shard = self.shard(agent);
        let first = shard.entry(agent).or_default().tunnel_opened(offer);
        drop(shard);
        if first {
            self.table.announce(agent);
        }
    }

    fn shard(&self, agent: AgentId) -> MutexGuard<'_, HashMap<AgentId, Agent, RandomState>> {
        let index = usize::try_from(agent.0.unsigned_abs() % SHARDS as u64).unwrap_or(0);
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl TunnelPool for Registry {
    fn put_back(&self, slot: &Arc<Slot>) {
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
                // Its watch may have found it dead before it was listed.
                if slot.is_gone() {
                    self.remove(slot);
                }
                return;
            };
            let usage = self.usage(agent, &waiter.need);
            let Some(tunnel) = slot.reserve() else {
                // It ended meanwhile. The request waits on; another tunnel may have become idle since it left the
                // queue, and is given to it as what it was counted for is released.
                let mut shard = self.shard(agent);
                shard.entry(agent).or_default().wait_on(waiter);
                drop(shard);
                return drop(usage);
            };
            match waiter.sender.send(tunnel.used(usage)) {
                Ok(()) => return,
                // The request was cancelled meanwhile: on to the next.
                Err(tunnel) => tunnel.unreserve(),
            }
        }
    }

    fn released(&self, agent: AgentId, caller: &str) {
        if let Some(entry) = self.shard(agent).get_mut(&agent) {
            entry.released(caller);
        }
        // That may free an idle tunnel for this caller, or for another.
        loop {
            let pair = self.shard(agent).get_mut(&agent).and_then(Agent::next_pair);
            let Some((waiter, tunnel)) = pair else {
                return;
            };
            self.idle.fetch_sub(1, Ordering::Relaxed);
            let usage = self.usage(agent, &waiter.need);
            // A request that was cancelled meanwhile drops the tunnel, which puts it back.
            drop(waiter.sender.send(tunnel.used(usage)));
        }
    }

    fn remove(&self, slot: &Arc<Slot>) {
        let mut shard = self.shard(slot.offer.agent);
        if shard
            .get_mut(&slot.offer.agent)
            .is_some_and(|entry| entry.remove(slot))
        {
            self.idle.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn tunnel_ended(&self, offer: &Offer) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
        let agent = offer.agent;
        let mut shard = self.shard(agent);
        let entry = shard.entry(agent).or_default();
        let last = entry.tunnel_ended(offer, Instant::now());
        drop(shard);
        if last {
            self.table.retract(agent);
        }
    }
}
