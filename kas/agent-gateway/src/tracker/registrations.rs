//! The processes that registered with one token on a connection: they are connected while it is open, and as long
//! as they register again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use router::AgentId;
use tokio::time::Instant;

use super::InstanceGuard;

/// Processes register every five minutes; one that has missed two is gone, even where a load balancer keeps the
/// connection that it shared.
const REGISTRATION_TTL: Duration = Duration::from_secs(660);
/// Those of one agent.
const MAX_REGISTRATIONS: usize = super::MAX_INSTANCES;

/// The registered processes.
#[derive(Debug, Default)]
pub(crate) struct Registrations(Mutex<Vec<Registration>>);

#[derive(Debug)]
struct Registration {
    agent: AgentId,
    pod_id: i64,
    at: Instant,
    #[expect(dead_code, reason = "held for its Drop")]
    guard: InstanceGuard,
}

impl Registrations {
    /// A process has registered on this connection.
    pub(crate) fn add(&self, agent: AgentId, pod_id: i64, guard: InstanceGuard) {
        let at = Instant::now();
        let new = Registration {
            agent,
            pod_id,
            at,
            guard,
        };
        let mut all = self.lock();
        let (kept, gone) = std::mem::take(&mut *all).into_iter().partition(|it| {
            (it.agent, it.pod_id) != (agent, pod_id) && at - it.at < REGISTRATION_TTL
        });
        *all = kept;
        if all.len() < MAX_REGISTRATIONS {
            all.push(new);
        }
        drop(all);
        // Dropped last, so that a process that registers again stays connected all the while.
        drop::<Vec<Registration>>(gone);
    }

    /// A process has unregistered.
    pub(crate) fn remove(&self, agent: AgentId, pod_id: i64) {
        let mut all = self.lock();
        all.retain(|it| (it.agent, it.pod_id) != (agent, pod_id));
    }

    /// All are gone.
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut *self.lock());
        drop(gone);
    }

    /// Whether any has registered lately.
    pub(crate) fn are_any(&self) -> bool {
        let now = Instant::now();
        self.lock().iter().any(|it| now - it.at < REGISTRATION_TTL)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Registration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
