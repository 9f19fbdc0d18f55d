//! The processes that registered with one token on a connection: they are there while it is
//! open, and as long as they register again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use router::AgentId;
use tokio::time::Instant;

use super::Here;

/// Processes register every five minutes; one that has missed two is gone, even
/// where a load balancer keeps the connection that it shared.
const EXPIRY: Duration = Duration::from_secs(660);
/// Processes that may register so: those of one agent.
const MAX: usize = super::MAX_INSTANCES;

/// The processes that are there while the connection is.
#[derive(Debug, Default)]
pub(crate) struct Registrations(Mutex<Vec<Registration>>);

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
    pub(crate) fn add(&self, agent: AgentId, pod_id: i64, here: Here) {
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
    pub(crate) fn remove(&self, agent: AgentId, pod_id: i64) {
        let mut all = self.lock();
        all.retain(|it| (it.agent, it.pod_id) != (agent, pod_id));
    }

    /// None is there any more.
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut *self.lock());
        drop(gone);
    }

    /// Whether any has registered lately.
    pub(crate) fn are_any(&self) -> bool {
        let now = Instant::now();
        self.lock().iter().any(|it| now - it.at < EXPIRY)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Registration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
