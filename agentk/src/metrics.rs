//! What the agent counts.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// The agent's numbers. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) connected: Gauge,
    pub(crate) connections: Counter,
    pub(crate) connection_failures: Counter,
    pub(crate) tunnels_idle: Gauge,
    pub(crate) tunnels_active: Gauge,
    pub(crate) calls: Counter,
    pub(crate) calls_failed: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) leader: Gauge,
    pub(crate) events_reported: Counter,
    pub(crate) events_dropped: Counter,
}

impl Metrics {
    /// A registry of all of them.
    pub(crate) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("agentk");
        registry.register(
            "connected",
            "Connections on which kas has accepted the agent",
            self.connected.clone(),
        );
        registry.register(
            "connections",
            "Connections made to kas",
            self.connections.clone(),
        );
        registry.register(
            "connection_failures",
            "Connections to kas that could not be made, or were refused",
            self.connection_failures.clone(),
        );
        registry.register(
            "tunnels_idle",
            "Tunnels that wait for a call",
            self.tunnels_idle.clone(),
        );
        registry.register(
            "tunnels_active",
            "Tunnels that carry a call",
            self.tunnels_active.clone(),
        );
        registry.register("calls", "Calls carried", self.calls.clone());
        registry.register(
            "calls_failed",
            "Calls that ended with an error",
            self.calls_failed.clone(),
        );
        registry.register(
            "received_bytes",
            "Bytes of request bodies and upgraded connections from kas",
            self.bytes_received.clone(),
        );
        registry.register(
            "sent_bytes",
            "Bytes of response bodies and upgraded connections to kas",
            self.bytes_sent.clone(),
        );
        registry.register(
            "leader",
            "Whether this pod leads its agent's pods",
            self.leader.clone(),
        );
        registry.register(
            "events_reported",
            "Events of the cluster that kas has taken",
            self.events_reported.clone(),
        );
        registry.register(
            "events_dropped",
            "Occurrences of events for which there was no room while kas did not take them",
            self.events_dropped.clone(),
        );
        registry
    }
}
