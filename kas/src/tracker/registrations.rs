//! The processes that registered on one connection: they are there while it is
//! open, and as long as they register again.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use router::AgentId;
use tokio::time::Instant;

use super::Here;

/// Processes register every five minutes; one that has missed two is gone, even
/// where a load balancer keeps the connection that it shared.
const EXPIRY: Duration = Duration::from_secs(660);
/// Processes that may register on one connection.
const MAX: usize = 10_000;

/// The processes of one connection. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Registrations(Arc<Mutex<Vec<Registration>>>);

#[derive(Debug)]
struct Registration {
    agent: AgentId,
    pod_id: i64,
    at: Instant,
    #[expect(dead_code, reason = "held for its Drop")]
    here: Here,
}

impl Registrations {
    /// A process has registered on this connection.
    pub fn add(&self, agent: AgentId, pod_id: i64, here: Here) {
        let at = Instant::now();
        let new = Registration {
            agent,
            pod_id,
            at,
            here,
        };
        let mut all = self.lock();
        let (kept, gone) = std::mem::take(&mut *all)
            .into_iter()
            .partition(|it| (it.agent, it.pod_id) != (agent, pod_id) && at - it.at < EXPIRY);
        *all = kept;
        if all.len() < MAX {
            all.push(new);
        }
        drop(all);
        // Only now, so that a process that registers again stays all the while.
        drop::<Vec<Registration>>(gone);
    }

    /// A process has left.
    pub fn remove(&self, agent: AgentId, pod_id: i64) {
        let mut all = self.lock();
        all.retain(|it| (it.agent, it.pod_id) != (agent, pod_id));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Registration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
