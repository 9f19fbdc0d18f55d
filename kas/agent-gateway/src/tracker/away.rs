//! Processes that are not connected to this replica just now.
//!
//! What is known of a process is kept for a while, since a load balancer may carry each of its calls to another
//! replica, and on a connection of its own: its next call does not tell again what an earlier one told.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cluster_state::AgentId;
use tokio::time::Instant;

use super::origin::End;

/// How long a process may be away before it is said to have disconnected; one that is asked to open its streams again
/// counts as connected meanwhile.
pub(super) const RECONNECT_GRACE: Duration = Duration::from_secs(10);
/// How long what is known of a process is kept: processes register every five minutes.
pub(super) const KNOWN_TTL: Duration = Duration::from_secs(660);

/// Since when a process is away, and why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Away {
    pub(super) since: Instant,
    pub(super) end: End,
    /// Whether it was said that it has disconnected.
    pub(super) reported: bool,
}

/// What becomes of a process that is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before then.
    Wait(Instant),
    /// It is to be said that it has disconnected.
    Report,
    /// Nothing of it is kept any more.
    Forget,
}

impl Away {
    pub(super) fn new(end: End, now: Instant) -> Self {
        Self {
            since: now,
            end,
            reported: false,
        }
    }

    /// Whether it still counts as the same connection when the process is back.
    pub(super) fn is_renewal(&self, now: Instant) -> bool {
        let away = now.saturating_duration_since(self.since);
        self.end.renews || (!self.reported && away <= RECONNECT_GRACE)
    }

    pub(super) fn next(&self, now: Instant) -> Next {
        let away = now.saturating_duration_since(self.since);
        if away >= KNOWN_TTL {
            return Next::Forget;
        }
        // One that renews may be connected to another replica.
        if self.reported || self.end.renews {
            return Next::Wait(self.since + KNOWN_TTL);
        }
        if away >= RECONNECT_GRACE {
            return Next::Report;
        }
        Next::Wait(self.since + RECONNECT_GRACE)
    }
}

/// When to look at which process again; each has one entry at most.
#[derive(Debug, Default)]
pub(super) struct Agenda(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    at: BTreeMap<(Instant, u64), (AgentId, i64)>,
    last: u64,
}

impl Agenda {
    pub(super) fn add(&self, at: Instant, agent: AgentId, connection_id: i64) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.last += 1;
        let key = (at, entries.last);
        entries.at.insert(key, (agent, connection_id));
    }

    /// Takes those that are due.
    pub(super) fn due(&self, now: Instant) -> Vec<(AgentId, i64)> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let later = entries.at.split_off(&(now, u64::MAX));
        std::mem::replace(&mut entries.at, later)
            .into_values()
            .collect()
    }

    /// Takes all.
    pub(super) fn all(&self) -> Vec<(AgentId, i64)> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut entries.at).into_values().collect()
    }
}
