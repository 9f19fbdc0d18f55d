//! What the fleet counts, shared by all its agents.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use serde::Serialize;

/// Different reasons that are told apart; further ones count as `other`.
const MAX_REASONS: usize = 32;
/// Refused calls after which nobody is expected to be let in any more: those of one agent.
const ENOUGH: u64 = 3;

/// Counters and gauges.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) connected: AtomicUsize,
    pub(super) registered: AtomicUsize,
    pub(super) idle: AtomicUsize,
    pub(super) connections: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) body_bytes: AtomicU64,
    pub(super) configurations: AtomicU64,
    /// agentk processes that say that they are ready.
    pub(super) real: AtomicUsize,
    /// Connections dropped on purpose, by all at once.
    pub(super) churned: AtomicU64,
    /// Connections dropped on purpose, one by one.
    pub(super) dropped: AtomicU64,
    /// Calls whose token kas did not accept.
    pub(super) refused: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
}

/// The counters at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    agents: usize,
    connected: usize,
    registered: usize,
    idle_tunnels: usize,
    real_ready: usize,
    connections_dropped: u64,
    connections_made: u64,
    requests_answered: u64,
    body_bytes_sent: u64,
    configurations_received: u64,
    seconds_to_ready: Option<f64>,
    failures: BTreeMap<String, u64>,
}

/// Counts one as long as it lives.
#[derive(Debug)]
pub(super) struct Gauge<'a>(&'a AtomicUsize);

impl<'a> Gauge<'a> {
    pub(super) fn new(gauge: &'a AtomicUsize) -> Self {
        gauge.fetch_add(1, Relaxed);
        Self(gauge)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Stats {
    pub(super) fn failed(&self, reason: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let known = failures.contains_key(reason) || failures.len() < MAX_REASONS;
        let reason = if known { reason } else { "other" };
        *failures.entry(reason.to_owned()).or_default() += 1;
    }

    /// Whether kas lets nobody in.
    pub(super) fn is_refused(&self) -> bool {
        self.registered.load(Relaxed) == 0 && self.refused.load(Relaxed) >= ENOUGH
    }

    pub(super) fn ready(&self, agents: usize, tunnels: usize) -> bool {
        self.registered.load(Relaxed) >= agents && self.idle.load(Relaxed) >= agents * tunnels
    }

    pub(super) fn summary(&self, agents: usize, seconds_to_ready: Option<f64>) -> Summary {
        Summary {
            agents,
            connected: self.connected.load(Relaxed),
            registered: self.registered.load(Relaxed),
            idle_tunnels: self.idle.load(Relaxed),
            real_ready: self.real.load(Relaxed),
            connections_dropped: self.dropped.load(Relaxed),
            connections_made: self.connections.load(Relaxed),
            requests_answered: self.requests.load(Relaxed),
            body_bytes_sent: self.body_bytes.load(Relaxed),
            configurations_received: self.configurations.load(Relaxed),
            seconds_to_ready,
            failures: self
                .failures
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_reasons_is_bounded() {
        let stats = Stats::default();

        for number in 0..100 {
            stats.failed(&format!("reason {number}"));
        }

        let failures = stats.summary(0, None).failures;
        assert!(failures.len() <= MAX_REASONS + 1);
        assert_eq!(failures["other"], 68);
    }
}
