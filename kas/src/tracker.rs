//! Which agent processes have registered with this replica.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::agent::entity::AgentMeta;
use router::AgentId;
use tokio::time::Instant;

use crate::control_plane::AgentInfo;

/// Agents register every five minutes; one that has missed two is gone.
const EXPIRY: Duration = Duration::from_secs(660);
/// Processes of one agent that are remembered.
const MAX_INSTANCES: usize = 100;

/// The registered agent processes.
#[derive(Debug, Default)]
pub struct Tracker {
    agents: Mutex<HashMap<AgentId, HashMap<i64, Instance>>>,
}

/// One process of an agent.
#[derive(Debug, Clone)]
pub struct Instance {
    /// What it says of itself.
    pub meta: AgentMeta,
    /// When it registered first.
    pub connected_at: Instant,
    /// When it registered last.
    pub seen: Instant,
}

impl Tracker {
    /// Takes note of a process; `pod_id` is a random number of its own.
    pub fn register(&self, agent: &AgentInfo, pod_id: i64, meta: AgentMeta) {
        let now = Instant::now();
        let mut agents = self.lock();
        let instances = agents.entry(agent.id).or_default();
        instances.retain(|_, instance| now - instance.seen < EXPIRY);
        if let Some(known) = instances.get_mut(&pod_id) {
            known.meta = meta;
            known.seen = now;
            return;
        }
        tracing::info!(
            agent_id = agent.id.0,
            agent = agent.name,
            version = meta.version,
            pod = meta.pod_name,
            "an agent registered"
        );
        if instances.len() < MAX_INSTANCES {
            instances.insert(
                pod_id,
                Instance {
                    meta,
                    connected_at: now,
                    seen: now,
                },
            );
        }
    }

    /// Forgets a process.
    pub fn unregister(&self, agent: AgentId, pod_id: i64) {
        let mut agents = self.lock();
        if let Some(instances) = agents.get_mut(&agent) {
            instances.remove(&pod_id);
            if instances.is_empty() {
                agents.remove(&agent);
            }
        }
    }

    /// The processes of an agent.
    #[must_use]
    pub fn instances(&self, agent: AgentId) -> Vec<Instance> {
        let now = Instant::now();
        let agents = self.lock();
        let instances = agents.get(&agent).into_iter().flat_map(HashMap::values);
        instances
            .filter(|instance| now - instance.seen < EXPIRY)
            .cloned()
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, HashMap<i64, Instance>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
