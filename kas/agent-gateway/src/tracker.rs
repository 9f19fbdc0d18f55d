//! The connected agent processes, of this replica and of all.
//!
//! A process is connected while it has a configuration stream here, or while the connection is open on which it
//! registered. This replica's processes are published in the routing table, whose store all replicas read, and what
//! happens to them is recorded. What is known of one is kept for a while after that ([`away`]).

mod agent;
mod away;
mod connections;
mod instance;
mod origin;
mod recent_refusals;
mod recent_troubles;
mod record;
mod refusals;
mod registrations;
mod reports;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cluster_state::{
    AgentId, ConnectionLog, ConnectionRecord, Presence, PresenceEntry, PresenceQuery,
    RecordSubject, ReplicaId, RoutingTable, StoreError, memory::MemoryStore,
};
use jiff::Timestamp;
use proto::agent::{agent_tracker::ConnectedAgentInfo, entity::AgentMeta};

use agent::{Agent, MAX_INSTANCES};
use away::{Agenda, Away, RECONNECT_GRACE};
pub use connections::GitLabConnections;
use control_plane::AgentInfo;
use instance::Instance;
pub(crate) use origin::{End, Origin};
use recent_refusals::RecentRefusals;
pub use recent_troubles::RecentTrouble;
use recent_troubles::RecentTroubles;
pub use record::{ConnectedProcess, processes};
pub use refusals::Refusal;
use refusals::Refusals;
pub(crate) use registrations::Registrations;
use runtime::shares::{Rate, Rates};
use tokio::time::Instant;

/// How often a process may register: it does so every five minutes, and on each new connection.
const REGISTRATION_RATE_PER_POD: Rate = Rate {
    per_second: 1.0,
    burst: 5,
};
/// The same for all processes of an agent, which may come all at once when a replica has started.
const REGISTRATION_RATE_PER_AGENT: Rate = Rate {
    per_second: 20.0,
    burst: 2 * MAX_INSTANCES as u32,
};
/// Processes, and agents, whose rate of registrations is remembered.
const MAX_REMEMBERED_RATES: usize = 100_000;
/// Parts of the map of agents, each with a lock of its own.
const SHARDS: usize = 32;

/// The connected agent processes.
#[derive(Debug)]
pub struct Tracker {
    table: Arc<dyn RoutingTable>,
    log: Arc<ConnectionLog>,
    refusals: Refusals,
    recent_refusals: RecentRefusals,
    recent_troubles: RecentTroubles,
    replica: ReplicaId,
    agenda: Agenda,
    agents: [Mutex<HashMap<AgentId, Agent>>; SHARDS],
    per_pod: Rates<(AgentId, i64)>,
    per_agent: Rates<AgentId>,
}

/// Why a process cannot register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// It registers too often, or the agent's processes together do.
    #[error("this agent registers too often, try again later")]
    TooOften,
    /// The agent has as many processes as it may have.
    #[error(
        "this agent has {MAX_INSTANCES} connected processes already, which is the most allowed"
    )]
    TooMany,
}

/// A process counts as connected while this is held.
#[derive(Debug)]
pub struct InstanceGuard {
    tracker: Arc<Tracker>,
    agent: AgentId,
    connection_id: i64,
    pod: String,
    origin: Arc<Origin>,
    end: Option<End>,
}

impl Tracker {
    /// A tracker that publishes to `table`, and keeps records for itself.
    #[must_use]
    pub fn new(table: Arc<dyn RoutingTable>) -> Arc<Self> {
        let log = ConnectionLog::new(MemoryStore::default().connection_records());
        Self::with_log(table, log, ReplicaId::new("this"))
    }

    /// A tracker that publishes to `table`, and records what happens in `log`, for this replica.
    #[must_use]
    pub fn with_log(
        table: Arc<dyn RoutingTable>,
        log: Arc<ConnectionLog>,
        replica: ReplicaId,
    ) -> Arc<Self> {
        Arc::new(Self {
            table,
            log,
            refusals: Refusals::for_webhooks(),
            recent_refusals: RecentRefusals::default(),
            recent_troubles: RecentTroubles::default(),
            replica,
            agenda: Agenda::default(),
            agents: std::array::from_fn(|_| Mutex::default()),
            per_pod: Rates::new(REGISTRATION_RATE_PER_POD, MAX_REMEMBERED_RATES),
            per_agent: Rates::new(REGISTRATION_RATE_PER_AGENT, MAX_REMEMBERED_RATES),
        })
    }

    /// The records of what happens to agents' connections.
    #[must_use]
    pub fn log(&self) -> &Arc<ConnectionLog> {
        &self.log
    }

    /// A token was refused, or the cluster that has one.
    pub(crate) fn refused(&self, subject: RecordSubject, record: ConnectionRecord) {
        let record = record.bounded();
        if let RecordSubject::Agent(agent) = subject {
            self.refusals.note(agent, &record);
            self.recent_refusals.note(agent, &record);
            self.recent_troubles.refused(agent, &record, Instant::now());
        }
        self.log.note(subject, record);
    }

    /// What was refused of agents after a place in their order, a bounded number, and the place of the last that is
    /// told; without a place, none and the last place. Nothing is kept before the first question.
    #[must_use]
    pub fn refusals_after(&self, place: Option<u64>) -> (Vec<Refusal>, u64) {
        self.recent_refusals.after(place, Instant::now())
    }

    /// What was wrong with agents' connections here in the last ten minutes, of a bounded number of agents.
    #[must_use]
    pub fn recent_troubles(&self) -> Vec<(AgentId, RecentTrouble)> {
        self.recent_troubles.all(Instant::now())
    }

    /// What was refused lately, for webhooks.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The replica whose tracker it is.
    pub(crate) fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    /// A process registers; `pod_id` is a random number of its own.
    ///
    /// # Errors
    /// When it does so too often, or the agent has too many.
    pub fn register(
        self: &Arc<Self>,
        agent: &AgentInfo,
        pod_id: i64,
        meta: &AgentMeta,
    ) -> Result<InstanceGuard, RegisterError> {
        self.register_from(agent, pod_id, meta, &Origin::unknown())
    }

    /// The same on a connection.
    pub(crate) fn register_from(
        self: &Arc<Self>,
        agent: &AgentInfo,
        pod_id: i64,
        meta: &AgentMeta,
        origin: &Arc<Origin>,
    ) -> Result<InstanceGuard, RegisterError> {
        let now = Instant::now();
        if !self.per_pod.take(&(agent.id, pod_id), now) || !self.per_agent.take(&agent.id, now) {
            return Err(RegisterError::TooOften);
        }
        let instance = Instance::registered(pod_id, meta, Timestamp::now(), origin);
        self.hold(agent, instance)
    }

    /// A process has opened a configuration stream. `None` if it does not name its pod and will register besides, or
    /// if the agent has too many processes.
    #[must_use]
    pub fn streaming(
        self: &Arc<Self>,
        agent: &AgentInfo,
        meta: &AgentMeta,
        registers: bool,
    ) -> Option<InstanceGuard> {
        self.streaming_from(agent, meta, registers, &Origin::unknown())
    }

    /// The same on a connection.
    pub(crate) fn streaming_from(
        self: &Arc<Self>,
        agent: &AgentInfo,
        meta: &AgentMeta,
        registers: bool,
        origin: &Arc<Origin>,
    ) -> Option<InstanceGuard> {
        if registers && meta.pod_name.is_empty() {
            return None;
        }
        let instance = Instance::streaming(agent.id, meta, Timestamp::now(), origin);
        self.hold(agent, instance).ok()
    }

    /// A process unregisters.
    pub fn unregister(&self, agent: AgentId, pod_id: i64) {
        self.change(agent, |instances| {
            let at = instances.iter().position(|it| it.connection_id == pod_id);
            let Some(at) = at else { return false };
            let instance = instances.swap_remove(at);
            if !instance.away.is_some_and(|it| it.reported) {
                self.report(agent, &instance, End::UNREGISTERED);
            }
            true
        });
    }

    /// The tunnels on a connection are refused, or not any more: the processes on it are not listed meanwhile.
    pub(crate) fn set_refused(&self, agent: AgentId, origin: &Arc<Origin>, refused: bool) {
        if origin.set_refused(refused) {
            self.change(agent, |instances| {
                instances.iter().any(|it| Arc::ptr_eq(&it.origin, origin))
            });
        }
    }

    /// The processes connected to any replica.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn connected(
        &self,
        query: &PresenceQuery,
    ) -> Result<Vec<ConnectedAgentInfo>, StoreError> {
        let entries = self.table.find_presence(query).await?;
        let all = record::processes(&entries);
        Ok(all.into_iter().map(|it| it.info).collect())
    }

    /// What all replicas have published of the selected agents, for [`processes`].
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn published(&self, query: &PresenceQuery) -> Result<Vec<PresenceEntry>, StoreError> {
        self.table.find_presence(query).await
    }

    /// The processes connected to this replica, which asks nobody.
    #[must_use]
    pub fn connected_here(&self) -> Vec<ConnectedAgentInfo> {
        let mut all = Vec::new();
        for shard in &self.agents {
            let agents = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, agent) in agents.iter() {
                all.extend(record::own(*id, agent.project, &agent.instances));
            }
        }
        all.sort_by_key(|it| (it.agent_id, it.connection_id));
        all
    }

    fn hold(
        self: &Arc<Self>,
        agent: &AgentInfo,
        instance: Instance,
    ) -> Result<InstanceGuard, RegisterError> {
        // Its number may be another once it has registered, and then its pod tells which it is.
        let pod = if instance.registered {
            String::new()
        } else {
            instance.pod()
        };
        let connection_id = instance.connection_id;
        let origin = instance.origin.clone();
        let mut agents = self.lock(agent.id);
        let entry = agents.entry(agent.id).or_insert_with(|| Agent {
            project: agent.project_id,
            instances: Vec::new(),
        });
        let moved = std::mem::replace(&mut entry.project, agent.project_id) != agent.project_id;
        let known = entry.find(&instance);
        if known.is_none_or(|it| it.away.is_some()) && entry.is_full() {
            return Err(RegisterError::TooMany);
        }
        let changed = match entry.find(&instance) {
            Some(known) if known.away.is_some() => {
                self.back(agent, known, instance);
                true
            }
            Some(known) => known.merge(instance),
            None => {
                self.connected_now(agent, &instance);
                if let Some(gone) = entry.add(instance)
                    && let Some(away) = gone.away.filter(|it| !it.reported)
                {
                    self.report(agent.id, &gone, away.end);
                }
                true
            }
        };
        // A process that only registers again changes nothing.
        if changed || moved {
            self.publish(agent.id, entry);
        }
        Ok(InstanceGuard {
            tracker: self.clone(),
            agent: agent.id,
            connection_id,
            pod,
            origin,
            end: None,
        })
    }

    /// Changes an agent's processes; `change` returns whether that is to be published.
    fn change(&self, agent: AgentId, change: impl FnOnce(&mut Vec<Instance>) -> bool) {
        let mut agents = self.lock(agent);
        let Some(entry) = agents.get_mut(&agent) else {
            return;
        };
        if change(&mut entry.instances) {
            self.publish(agent, entry);
        }
        if entry.instances.is_empty() {
            agents.remove(&agent);
        }
    }

    /// Called under the lock, so that the last state is the last that is published.
    fn publish(&self, id: AgentId, agent: &Agent) {
        let all = agent.instances.iter();
        let instances: Vec<_> = all.filter(|it| !it.origin.is_refused()).collect();
        let presence = (!instances.is_empty()).then(|| Presence {
            group: agent.project,
            text: record::encode(&instances).into(),
        });
        self.table.set_presence(id, presence);
    }

    fn lock(&self, agent: AgentId) -> MutexGuard<'_, HashMap<AgentId, Agent>> {
        let shard = usize::try_from(agent.0.unsigned_abs() % SHARDS as u64).unwrap_or(0);
        self.agents[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl InstanceGuard {
    /// How what holds it ends, if that is not how its connection does.
    pub(crate) fn ends(&mut self, end: End) {
        self.end = Some(end);
    }
}

impl Drop for InstanceGuard {
    fn drop(&mut self) {
        let end = self.end.unwrap_or_else(|| self.origin.end());
        self.tracker.change(self.agent, |instances| {
            let by_id = |it: &Instance| it.connection_id == self.connection_id;
            let by_pod =
                |it: &Instance| it.away.is_none() && !self.pod.is_empty() && it.pod() == self.pod;
            let held = instances.iter().position(by_id);
            let held = held.or_else(|| instances.iter().position(by_pod));
            let Some(instance) = held.and_then(|at| instances.get_mut(at)) else {
                return false;
            };
            if instance.away.is_some() {
                return false;
            }
            instance.references = instance.references.saturating_sub(1);
            if instance.references > 0 {
                return false;
            }
            let now = Instant::now();
            if end == End::LOST || end == End::SILENT {
                self.tracker.recent_troubles.lost(self.agent, now);
            }
            let until = Timestamp::now();
            let renewed = until.checked_add(RECONNECT_GRACE).ok();
            instance.until = renewed.filter(|_| end.renews).or(Some(until));
            instance.away = Some(Away::new(end, now));
            self.tracker
                .schedule(self.agent, instance, now + RECONNECT_GRACE);
            true
        });
    }
}

#[cfg(test)]
mod tests;
