//! What the agents' port counts.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Counters and gauges of the agents' port. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct AgentMetrics {
    /// Open connections.
    pub connections: Gauge,
    /// Connections refused by the limit per token.
    pub rate_exceeded: Counter,
    /// Tunnels that agents opened.
    pub tunnels_opened: Counter,
    /// Idle tunnels that agents or the network ended.
    pub tunnels_lost: Counter,
    /// Calls refused because of their token.
    pub unauthenticated: Counter,
}

impl AgentMetrics {
    /// Registers them under the names of GitLab's kas where it has them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "agent_connections",
            "Open connections of agents",
            self.connections.clone(),
        );
        registry.register(
            "agent_server_rate_exceeded",
            "Connections refused by the limit of new connections per token",
            self.rate_exceeded.clone(),
        );
        registry.register(
            "agent_tunnels_opened",
            "Tunnels that agents opened",
            self.tunnels_opened.clone(),
        );
        registry.register(
            "agent_tunnels_lost",
            "Idle tunnels that agents or the network ended",
            self.tunnels_lost.clone(),
        );
        registry.register(
            "agent_unauthenticated_calls",
            "Calls of agents refused because of their token",
            self.unauthenticated.clone(),
        );
    }
}
