//! The processes that registered with one token on a connection: they are connected while it is open, and as long
//! as they register again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use router::AgentId;
use tokio::time::Instant;

use super::{InstanceGuard, origin::End};

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
        let (kept, mut gone): (_, Vec<Registration>) =
            std::mem::take(&mut *all).into_iter().partition(|it| {
                (it.agent, it.pod_id) != (agent, pod_id) && at - it.at < REGISTRATION_TTL
            });
        *all = kept;
        if all.len() < MAX_REGISTRATIONS {
            if all.is_empty() {
                // Most connections are one process's.
                all.reserve_exact(1);
            }
            all.push(new);
        }
        drop(all);
        for silent in &mut gone {
            if (silent.agent, silent.pod_id) != (agent, pod_id) {
                silent.guard.ends(End::SILENT_PROCESS);
            }
        }
        // Dropped last, so that a process that registers again stays connected all the while.
        drop(gone);
    }

    /// A process has unregistered.
    pub(crate) fn remove(&self, agent: AgentId, pod_id: i64) {
        let mut all = self.lock();
        all.retain(|it| (it.agent, it.pod_id) != (agent, pod_id));
    }

    /// All are gone, for this reason.
    pub(crate) fn clear(&self, end: End) {
        let mut gone = std::mem::take(&mut *self.lock());
        for registration in &mut gone {
            registration.guard.ends(end);
        }
        drop(gone);
    }

    /// The numbers of an agent's processes that have registered.
    pub(super) fn ids_of(&self, agent: AgentId) -> Vec<i64> {
        let all = self.lock();
        let own = all.iter().filter(|it| it.agent == agent);
        own.map(|it| it.pod_id).collect()
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
