//! Which agent processes are connected, to this replica and to all.
//!
//! A process is there while it has a configuration stream here, or while the
//! connection is open on which it registered. What this replica knows of an
//! agent's processes is told to the routing table, whose store shares it.

mod instance;
mod registrations;
mod written;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cluster_state::{AgentId, Presence, RoutingTable, StoreError, Wanted};
use jiff::Timestamp;
use proto::agent::{agent_tracker::ConnectedAgentInfo, entity::AgentMeta};

use control_plane::AgentInfo;
use instance::Instance;
pub(crate) use registrations::Registrations;
use runtime::shares::{Rate, Rates};
use tokio::time::Instant;

/// Processes that one agent may have on a replica.
const MAX_INSTANCES: usize = 100;
/// How often a process may register: it does every five minutes, and again on each new connection.
const PER_POD: Rate = Rate {
    per_second: 1.0,
    burst: 5,
};
/// The same for all processes of an agent: each may come at once when a replica has started.
const PER_AGENT: Rate = Rate {
    per_second: 20.0,
    burst: 2 * MAX_INSTANCES as u32,
};
/// Processes or agents of which it is remembered how often they registered.
const MAX_REMEMBERED: usize = 100_000;
/// Parts of the agents that are locked one by one.
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
    /// It registers all the time, or the agent's processes together do.
    #[error("this agent registers too often, try again later")]
    TooOften,
    /// The agent has as many as it may have.
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

/// A process is there as long as this is held.
#[derive(Debug)]
pub struct Here {
    tracker: Arc<Tracker>,
    agent: AgentId,
    connection_id: i64,
    pod: String,
}

impl Tracker {
    /// A tracker that tells `table`.
    #[must_use]
    pub fn new(table: Arc<dyn RoutingTable>) -> Arc<Self> {
        Arc::new(Self {
            table,
            agents: std::array::from_fn(|_| Mutex::default()),
            per_pod: Rates::new(PER_POD, MAX_REMEMBERED),
            per_agent: Rates::new(PER_AGENT, MAX_REMEMBERED),
        })
    }

    /// A process says that it is there; `pod_id` is a random number of its own.
    ///
    /// # Errors
    /// When it does so too often, or the agent has too many.
    pub fn register(
        self: &Arc<Self>,
        agent: &AgentInfo,
        pod_id: i64,
        meta: &AgentMeta,
    ) -> Result<Here, RegisterError> {
        let now = Instant::now();
        if !self.per_pod.take(&(agent.id, pod_id), now) || !self.per_agent.take(&agent.id, now) {
            return Err(RegisterError::TooOften);
        }
        let instance = Instance::registered(pod_id, meta, Timestamp::now());
        self.hold(agent, instance)
    }

    /// A process has opened a stream of its configuration. `None` if it says
    /// too little of itself and will register besides, or if the agent has too many.
    #[must_use]
    pub fn streaming(
        self: &Arc<Self>,
        agent: &AgentInfo,
        meta: &AgentMeta,
        registers: bool,
    ) -> Option<Here> {
        if registers && meta.pod_name.is_empty() {
            return None;
        }
        let instance = Instance::streaming(agent.id, meta, Timestamp::now());
        self.hold(agent, instance).ok()
    }

    /// A process leaves.
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
    pub async fn connected(&self, wanted: &Wanted) -> Result<Vec<ConnectedAgentInfo>, StoreError> {
        let told = self.table.told(wanted).await?;
        Ok(written::merge(&told))
    }

    fn hold(
        self: &Arc<Self>,
        agent: &AgentInfo,
        instance: Instance,
    ) -> Result<Here, RegisterError> {
        let (connection_id, pod) = (instance.connection_id, instance.pod());
        let mut agents = self.lock(agent.id);
        let entry = agents.entry(agent.id).or_insert_with(|| Agent {
            project: agent.project_id,
            instances: Vec::new(),
        });
        let moved = std::mem::replace(&mut entry.project, agent.project_id) != agent.project_id;
        let full = entry.instances.len() >= MAX_INSTANCES;
        let changed = match entry.instances.iter_mut().find(|it| it.is_same(&instance)) {
            Some(known) => known.again(instance),
            None if full => return Err(RegisterError::TooMany),
            None => {
                tracing::info!(
                    agent_id = agent.id.0,
                    agent = agent.name,
                    version = instance.meta.version,
                    pod = instance.meta.pod_name,
                    "an agent connected"
                );
                entry.instances.push(instance);
                true
            }
        };
        // Whoever only registers again has nothing new to tell.
        if changed || moved {
            self.tell(agent.id, entry);
        }
        Ok(Here {
            tracker: self.clone(),
            agent: agent.id,
            connection_id,
            pod,
        })
    }

    /// Changes what is known of an agent; `change` says whether that is to be told.
    fn change(&self, agent: AgentId, change: impl FnOnce(&mut Vec<Instance>) -> bool) {
        let mut agents = self.lock(agent);
        let Some(entry) = agents.get_mut(&agent) else {
            return;
        };
        if change(&mut entry.instances) {
            self.tell(agent, entry);
        }
        if entry.instances.is_empty() {
            agents.remove(&agent);
        }
    }

    /// Under the lock, so that the last that is told is the last that is true.
    fn tell(&self, id: AgentId, agent: &Agent) {
        let told = &agent.instances;
        let presence = (!told.is_empty()).then(|| Presence {
            group: agent.project,
            text: written::write(told).into(),
        });
        self.table.tell(id, presence);
    }

    fn lock(&self, agent: AgentId) -> MutexGuard<'_, HashMap<AgentId, Agent>> {
        let shard = usize::try_from(agent.0.unsigned_abs() % SHARDS as u64).unwrap_or(0);
        self.agents[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.tracker.change(self.agent, |instances| {
            let by_id = |it: &Instance| it.connection_id == self.connection_id;
            // It has another number since it registered.
            let by_pod = |it: &Instance| !self.pod.is_empty() && it.pod() == self.pod;
            let held = instances.iter().position(by_id);
            let held = held.or_else(|| instances.iter().position(by_pod));
            let held = held.and_then(|at| instances.get_mut(at));
            if let Some(instance) = held {
                instance.holders = instance.holders.saturating_sub(1);
            }
            let before = instances.len();
            instances.retain(|it| it.holders > 0);
            instances.len() != before
        });
    }
}

#[cfg(test)]
mod tests;
