//! The connected agent processes, of this replica and of all.
//!
//! A process is connected while it has a configuration stream here, or while the connection is open on which it
//! registered. This replica's processes are published in the routing table, whose store all replicas read.

mod instance;
mod record;
mod registrations;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cluster_state::{AgentId, Presence, PresenceEntry, PresenceQuery, RoutingTable, StoreError};
use jiff::Timestamp;
use proto::agent::{agent_tracker::ConnectedAgentInfo, entity::AgentMeta};

use control_plane::AgentInfo;
use instance::Instance;
pub use record::{ConnectedProcess, processes};
pub(crate) use registrations::Registrations;
use runtime::shares::{Rate, Rates};
use tokio::time::Instant;

/// Processes that one agent may have on a replica.
const MAX_INSTANCES: usize = 100;
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

#[derive(Debug)]
struct Agent {
    project: i64,
    instances: Vec<Instance>,
}

/// A process counts as connected while this is held.
#[derive(Debug)]
pub struct InstanceGuard {
    tracker: Arc<Tracker>,
    agent: AgentId,
    connection_id: i64,
    pod: String,
}

impl Tracker {
    /// A tracker that publishes to `table`.
    #[must_use]
    pub fn new(table: Arc<dyn RoutingTable>) -> Arc<Self> {
        Arc::new(Self {
            table,
            agents: std::array::from_fn(|_| Mutex::default()),
            per_pod: Rates::new(REGISTRATION_RATE_PER_POD, MAX_REMEMBERED_RATES),
            per_agent: Rates::new(REGISTRATION_RATE_PER_AGENT, MAX_REMEMBERED_RATES),
        })
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
        let now = Instant::now();
        if !self.per_pod.take(&(agent.id, pod_id), now) || !self.per_agent.take(&agent.id, now) {
            return Err(RegisterError::TooOften);
        }
        let instance = Instance::registered(pod_id, meta, Timestamp::now());
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
        if registers && meta.pod_name.is_empty() {
            return None;
        }
        let instance = Instance::streaming(agent.id, meta, Timestamp::now());
        self.hold(agent, instance).ok()
    }

    /// A process unregisters.
    pub fn unregister(&self, agent: AgentId, pod_id: i64) {
        self.change(agent, |instances| {
            let before = instances.len();
            instances.retain(|it| it.connection_id != pod_id);
            instances.len() != before
        });
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
        let (connection_id, pod) = (instance.connection_id, instance.pod());
        let mut agents = self.lock(agent.id);
        let entry = agents.entry(agent.id).or_insert_with(|| Agent {
            project: agent.project_id,
            instances: Vec::new(),
        });
        let moved = std::mem::replace(&mut entry.project, agent.project_id) != agent.project_id;
        let full = entry.instances.len() >= MAX_INSTANCES;
        let changed = match entry.instances.iter_mut().find(|it| it.is_same(&instance)) {
            Some(known) => known.merge(instance),
            None if full => return Err(RegisterError::TooMany),
            None => {
                tracing::info!(
                    agent.id = agent.id.0,
                    agent.name = agent.name,
                    agent.version = instance.meta.version,
                    pod = instance.meta.pod_name,
                    "agent process connected"
                );
                entry.instances.push(instance);
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
        let instances = &agent.instances;
        let presence = (!instances.is_empty()).then(|| Presence {
            group: agent.project,
            text: record::encode(instances).into(),
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

impl Drop for InstanceGuard {
    fn drop(&mut self) {
        self.tracker.change(self.agent, |instances| {
            let by_id = |it: &Instance| it.connection_id == self.connection_id;
            // Its id is another since it registered.
            let by_pod = |it: &Instance| !self.pod.is_empty() && it.pod() == self.pod;
            let held = instances.iter().position(by_id);
            let held = held.or_else(|| instances.iter().position(by_pod));
            let held = held.and_then(|at| instances.get_mut(at));
            if let Some(instance) = held {
                instance.references = instance.references.saturating_sub(1);
            }
            let before = instances.len();
            instances.retain(|it| it.references > 0);
            instances.len() != before
        });
    }
}

#[cfg(test)]
mod tests;
