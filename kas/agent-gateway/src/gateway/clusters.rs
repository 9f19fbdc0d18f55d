//! Which cluster each tunnel leads to: an agent is pinned to the first one, and tunnels to another are refused.
//!
//! Our agentk tells it with each tunnel. GitLab's does not: the first tunnel of a connection is used to ask
//! ([`ask`]), and the others wait for the answer. A load balancer that takes HTTP/2 apart may carry each tunnel on a
//! connection of its own, and tunnels of several clusters on one; what such a connection leads to is known for a
//! minute from the last one that was asked.
//!
//! Pins are shared by all replicas and kept here, so that a tunnel costs no command. While the store is away, an agent
//! whose pin is not known here is pinned for now, and for good when the store is back.

mod ask;
mod fronts;
mod pins;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cluster_state::{
    AgentId, Channel, ClusterPins, ClusterUid, ConnectionRecord, RecordSubject, StoreError,
};
use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use prometheus_client::{metrics::counter::Counter, registry::Registry as Metrics};
use tokio::time::Instant;
use tonic::Status;

use super::caller::{Caller, CallerCluster, OpenTunnel, Told};
use crate::tracker::Tracker;
use ask::Answer;
use fronts::Fronts;

/// The channel by which replicas hear that a pin has changed: the message is the agent's number.
pub const CHANNEL: &str = "kas_cluster_pins";
/// How long a connection whose cluster did not answer is not asked again.
const UNANSWERED_TTL: Duration = Duration::from_secs(5);
/// The least time between two warnings about one agent.
const WARN_INTERVAL: Duration = Duration::from_secs(300);

/// What becomes of a tunnel.
pub(super) enum Admission {
    /// It leads to this cluster, or it is not known to which.
    Use(OpenTunnel, Option<ClusterUid>),
    /// It leads to another cluster than the agent's.
    Refuse(OpenTunnel, Status),
    /// It is decided about these when this is done.
    Later(BoxFuture<'static, Vec<OpenTunnel>>),
    /// It waits for others of its connection.
    Waits,
}

/// Knows the clusters of agents.
#[derive(Debug)]
pub struct Clusters {
    pins: Arc<dyn ClusterPins>,
    changes: Option<Arc<dyn Channel>>,
    tracker: Arc<Tracker>,
    agents: Mutex<HashMap<AgentId, Known, RandomState>>,
    /// Whether pins of agents are kept that have no tunnel here.
    keeps_all: AtomicBool,
    refused: Counter,
}

/// What is known of an agent here.
#[derive(Debug, Default)]
struct Known {
    pin: Option<ClusterUid>,
    /// The store does not know the pin yet.
    tentative: bool,
    /// Those with tunnels here.
    callers: Vec<Weak<Caller>>,
    fronts: Fronts,
    warned_at: Option<Instant>,
}

/// Held while a connection is asked: tunnels that wait for the answer hold their caller, which holds them.
struct Asks(Arc<Caller>);

impl Drop for Asks {
    fn drop(&mut self) {
        let mut found = self.0.cluster();
        if matches!(*found, CallerCluster::Asking(_)) {
            let waiting = std::mem::take(&mut *found);
            drop(found);
            drop(waiting);
        }
    }
}

impl Clusters {
    /// Pins agents in `pins`. Other replicas say by `changes` when they have changed one.
    #[must_use]
    pub fn new(
        pins: Arc<dyn ClusterPins>,
        changes: Option<Arc<dyn Channel>>,
        tracker: Arc<Tracker>,
        metrics: &mut Metrics,
    ) -> Arc<Self> {
        let refused = Counter::default();
        metrics.register(
            "agent_other_cluster_tunnels_refused",
            "Tunnels refused since they lead to another cluster than the one that their agent is pinned to",
            refused.clone(),
        );
        Arc::new(Self {
            pins,
            changes,
            tracker,
            agents: Mutex::default(),
            keeps_all: AtomicBool::new(false),
            refused,
        })
    }

    /// The cluster that an agent is pinned to.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn pin_of(&self, agent: AgentId) -> Result<Option<ClusterUid>, StoreError> {
        self.pins.read(agent).await
    }

    /// From now on the pins of all agents are known here, not only of those with tunnels.
    pub fn keep_all(&self) {
        self.keeps_all.store(true, Ordering::Relaxed);
    }

    /// The same as far as it is known here.
    #[must_use]
    pub fn known_pin_of(&self, agent: AgentId) -> Option<ClusterUid> {
        let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.get(&agent)?.pin.clone()
    }

    /// The agents whose pins are known here.
    #[must_use]
    pub fn known_pinned(&self) -> Vec<AgentId> {
        let agents = self.lock();
        let pinned = agents.iter().filter(|(_, it)| it.pin.is_some());
        pinned.map(|(agent, _)| *agent).collect()
    }

    /// The clusters that agents are pinned to.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn all(&self) -> Result<HashMap<AgentId, ClusterUid>, StoreError> {
        let pins = self.pins.all().await?.into_iter();
        Ok(pins
            .filter_map(|(agent, pin)| Some((agent, pin?)))
            .collect())
    }

    /// Pins an agent to a cluster, or with `None` to none until its next tunnel. Tunnels to other clusters end.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn set(&self, agent: AgentId, cluster: Option<ClusterUid>) -> Result<(), StoreError> {
        self.pins.set(agent, cluster.as_ref()).await?;
        tracing::info!(
            agent.id = agent.0,
            cluster = cluster.as_ref().map(ClusterUid::as_str),
            "agent's cluster pin was changed"
        );
        self.know(agent, cluster, false);
        self.publish(agent).await;
        Ok(())
    }

    /// Decides about a tunnel.
    pub(super) fn admit(self: &Arc<Self>, open: OpenTunnel) -> Admission {
        let agent = open.offer.agent;
        self.list(agent, &open.permit.caller);
        match open.told.clone() {
            Told::Uid(cluster) => self.judge(open, cluster),
            Told::Unknown => self.judge_unknown(open),
            Told::Nothing => self.judge_by_connection(open),
        }
    }

    /// A tunnel that says nothing: what was found of its connection counts.
    fn judge_by_connection(self: &Arc<Self>, open: OpenTunnel) -> Admission {
        let (agent, caller) = (open.offer.agent, open.permit.caller.clone());
        // Only the connection's own task, which is here, asks and pushes.
        let mut found = caller.cluster();
        match &mut *found {
            CallerCluster::Known(cluster) => {
                let cluster = cluster.clone();
                drop(found);
                self.judge(open, cluster)
            }
            CallerCluster::Hidden => {
                drop(found);
                self.judge_unknown(open)
            }
            CallerCluster::Unanswered(at) if at.elapsed() < UNANSWERED_TTL => {
                drop(found);
                self.judge_unknown(open)
            }
            // Bounded by the permits of the caller.
            CallerCluster::Asking(waiting) => {
                waiting.push(open);
                Admission::Waits
            }
            CallerCluster::NotAsked | CallerCluster::Unanswered(_) => {
                match self.front(agent, &caller) {
                    Some(Some(cluster)) => {
                        drop(found);
                        self.judge(open, cluster)
                    }
                    Some(None) => {
                        drop(found);
                        self.judge_unknown(open)
                    }
                    None => {
                        *found = CallerCluster::Asking(Vec::new());
                        drop(found);
                        let asks = Asks(caller.clone());
                        Admission::Later(Box::pin(self.clone().ask(open, asks)))
                    }
                }
            }
        }
    }

    fn judge(self: &Arc<Self>, open: OpenTunnel, cluster: ClusterUid) -> Admission {
        let agent = open.offer.agent;
        let pin = self.lock().get(&agent).and_then(|it| it.pin.clone());
        match pin {
            // The pin's text, which all tunnels share.
            Some(pin) if pin == cluster => {
                self.list_again(&open);
                Admission::Use(open, Some(pin))
            }
            Some(pin) => {
                let status = self.refuse(&open, Some(&cluster), &pin);
                Admission::Refuse(open, status)
            }
            None => {
                let clusters = self.clone();
                Admission::Later(Box::pin(async move {
                    clusters.pin_first(agent, cluster).await;
                    vec![open]
                }))
            }
        }
    }

    /// A tunnel to a cluster that is not known: it may be any.
    fn judge_unknown(self: &Arc<Self>, open: OpenTunnel) -> Admission {
        let agent = open.offer.agent;
        let pin = self.lock().get(&agent).and_then(|it| it.pin.clone());
        match pin {
            Some(pin) => {
                let status = self.refuse(&open, None, &pin);
                Admission::Refuse(open, status)
            }
            None => {
                self.list_again(&open);
                Admission::Use(open, None)
            }
        }
    }

    fn list_again(&self, open: &OpenTunnel) {
        let origin = &open.permit.caller.origin;
        if origin.is_refused() {
            self.tracker.set_refused(open.offer.agent, origin, false);
        }
    }

    /// Asks by a tunnel, which is used up, and gives those that waited for the answer.
    async fn ask(self: Arc<Self>, open: OpenTunnel, asks: Asks) -> Vec<OpenTunnel> {
        let (agent, caller) = (open.offer.agent, &asks.0);
        let answer = ask::ask(open).await;
        let (found, front) = match answer {
            Answer::Uid(cluster) => {
                if self.lock().get(&agent).is_none_or(|it| it.pin.is_none()) {
                    self.pin_first(agent, cluster.clone()).await;
                }
                (CallerCluster::Known(cluster.clone()), Some(Some(cluster)))
            }
            Answer::Hidden => {
                tracing::info!(
                    agent.id = agent.0,
                    remote_addr = %caller.origin.remote_addr,
                    "cannot tell which cluster the agent is in: it may not read the namespace kube-system"
                );
                (CallerCluster::Hidden, Some(None))
            }
            Answer::None => (CallerCluster::Unanswered(Instant::now()), None),
        };
        if let Some(cluster) = front
            && caller.streams() <= 1
        {
            let mut agents = self.lock();
            let known = agents.entry(agent).or_default();
            known.fronts.remember(cluster, caller);
        }
        match std::mem::replace(&mut *caller.cluster(), found) {
            CallerCluster::Asking(waiting) => waiting,
            _ => Vec::new(),
        }
    }

    fn list(&self, agent: AgentId, caller: &Arc<Caller>) {
        if caller.is_listed() {
            return;
        }
        let mut agents = self.lock();
        let callers = &mut agents.entry(agent).or_default().callers;
        if callers.len() == callers.capacity() {
            callers.retain(|it| it.strong_count() > 0);
        }
        callers.push(Arc::downgrade(caller));
    }

    fn front(&self, agent: AgentId, caller: &Caller) -> Option<Option<ClusterUid>> {
        self.lock().get(&agent)?.fronts.find(caller)
    }

    /// Counts, logs and records that a tunnel is refused; the status for its agent.
    fn refuse(&self, open: &OpenTunnel, cluster: Option<&ClusterUid>, pin: &ClusterUid) -> Status {
        self.refused.inc();
        if !open.permit.caller.has_tunnels() {
            let origin = &open.permit.caller.origin;
            self.tracker.set_refused(open.offer.agent, origin, true);
        }
        let (agent, caller) = (open.offer.agent, &open.permit.caller);
        let reason = match cluster {
            Some(cluster) => format!(
                "agent {agent} is pinned to cluster {pin}, and this is cluster {cluster}: give each cluster an agent and a \
                 token of its own, or run `kas agent pin` if the agent has moved"
            ),
            None => format!(
                "agent {agent} is pinned to cluster {pin}, and it is not known which cluster this is: let the agent get the \
                 namespace kube-system, or run `kas agent unpin`"
            ),
        };
        if self.may_warn(agent) {
            tracing::warn!(
                agent.id = agent.0,
                remote_addr = %caller.origin.remote_addr,
                cluster = cluster.map_or("unknown", ClusterUid::as_str),
                pinned = %pin,
                "refused the tunnels of another cluster that uses this agent's token"
            );
        }
        let record = ConnectionRecord {
            reason: match cluster {
                Some(_) => {
                    format!("another cluster uses this agent's token; it is pinned to {pin}")
                }
                None => {
                    format!("it is not known which cluster this is; the agent is pinned to {pin}")
                }
            },
            cluster: cluster.map(ToString::to_string),
            token: Some(caller.token().hash().fingerprint()),
            ..self
                .tracker
                .refusal_at(agent, &caller.origin, &caller.registrations)
        };
        self.tracker.refused(RecordSubject::Agent(agent), record);
        Status::permission_denied(reason)
    }

    fn may_warn(&self, agent: AgentId) -> bool {
        let mut agents = self.lock();
        let warned_at = &mut agents.entry(agent).or_default().warned_at;
        let may = warned_at.is_none_or(|at| at.elapsed() >= WARN_INTERVAL);
        if may {
            *warned_at = Some(Instant::now());
        }
        may
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Known, RandomState>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
