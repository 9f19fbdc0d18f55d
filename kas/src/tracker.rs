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

use jiff::Timestamp;
use proto::agent::{agent_tracker::ConnectedAgentInfo, entity::AgentMeta};
use router::{
    AgentId, RoutingTable,
    store::StoreError,
    table::{Presence, Wanted},
};

use crate::control_plane::AgentInfo;
use instance::Instance;
pub use registrations::Registrations;

/// Processes of one agent that are told of.
const MAX_INSTANCES: usize = 100;

/// The connected agent processes.
#[derive(Debug)]
pub struct Tracker {
    table: Arc<dyn RoutingTable>,
    agents: Mutex<HashMap<AgentId, Agent>>,
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
            agents: Mutex::default(),
        })
    }

    /// A process says that it is there; `pod_id` is a random number of its own.
    #[must_use]
    pub fn register(self: &Arc<Self>, agent: &AgentInfo, pod_id: i64, meta: &AgentMeta) -> Here {
        let instance = Instance::registered(pod_id, meta, Timestamp::now());
        self.hold(agent, instance)
    }

    /// A process has opened a stream of its configuration. `None` if it says
    /// too little of itself and will register besides.
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
        Some(self.hold(agent, instance))
    }

    /// A process leaves.
    pub fn unregister(&self, agent: AgentId, pod_id: i64) {
        self.change(agent, |instances| {
            instances.retain(|it| it.connection_id != pod_id);
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

    fn hold(self: &Arc<Self>, agent: &AgentInfo, instance: Instance) -> Here {
        let (connection_id, pod) = (instance.connection_id, instance.pod());
        let mut agents = self.lock();
        let entry = agents.entry(agent.id).or_insert_with(|| Agent {
            project: agent.project_id,
            instances: Vec::new(),
        });
        entry.project = agent.project_id;
        match entry.instances.iter_mut().find(|it| it.is_same(&instance)) {
            Some(known) => known.again(instance),
            None => {
                tracing::info!(
                    agent_id = agent.id.0,
                    agent = agent.name,
                    version = instance.meta.version,
                    pod = instance.meta.pod_name,
                    "an agent connected"
                );
                entry.instances.push(instance);
            }
        }
        self.tell(agent.id, entry);
        Here {
            tracker: self.clone(),
            agent: agent.id,
            connection_id,
            pod,
        }
    }

    fn change(&self, agent: AgentId, change: impl FnOnce(&mut Vec<Instance>)) {
        let mut agents = self.lock();
        let Some(entry) = agents.get_mut(&agent) else {
            return;
        };
        change(&mut entry.instances);
        self.tell(agent, entry);
        if entry.instances.is_empty() {
            agents.remove(&agent);
        }
    }

    /// Under the lock, so that the last that is told is the last that is true.
    fn tell(&self, id: AgentId, agent: &Agent) {
        let told = &agent.instances[..agent.instances.len().min(MAX_INSTANCES)];
        let presence = (!told.is_empty()).then(|| Presence {
            group: agent.project,
            text: written::write(told).into(),
        });
        self.table.tell(id, presence);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Agent>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
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
            instances.retain(|it| it.holders > 0);
        });
    }
}

#[cfg(test)]
mod tests;
