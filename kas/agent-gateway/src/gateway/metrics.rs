//! The metrics of the agents' port.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use runtime::grpc::ServerMetrics;

/// The metrics of the agents' port. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct AgentMetrics {
    /// Open connections.
    pub connections: Gauge,
    /// Connections refused by the limit per token.
    pub rate_exceeded: Counter,
    /// Connections refused since there were as many as the replica takes.
    pub full: Counter,
    /// Connections that were asked to move to other replicas, which have fewer.
    pub rebalanced: Counter,
    /// Tunnels that agents opened.
    pub tunnels_opened: Counter,
    /// Idle tunnels that agents or the network ended.
    pub tunnels_lost: Counter,
    /// Calls refused with UNAUTHENTICATED.
    pub unauthenticated: Counter,
    /// Calls by method and code.
    pub calls: ServerMetrics,
}

impl AgentMetrics {
    /// Registers them under the names of GitLab's kas where it has them.
    pub fn register(&self, registry: &mut Registry) {
        self.calls.register(registry);
        registry.register(
            "agent_connections",
            "Open connections at the agents' port",
            self.connections.clone(),
        );
        registry.register(
            "agent_server_rate_exceeded",
            "New connections of agents refused by agent.listen.connections_per_token_per_minute",
            self.rate_exceeded.clone(),
        );
        registry.register(
            "agent_connections_refused_full",
            "Connections of agents refused since the replica had agent.listen.max_connections of them",
            self.full.clone(),
        );
        registry.register(
            "agent_connections_rebalanced",
            "Connections of agents asked to move since other replicas had fewer",
            self.rebalanced.clone(),
        );
        registry.register(
            "agent_tunnels_opened",
            "Tunnels opened by agents",
            self.tunnels_opened.clone(),
        );
        registry.register(
            "agent_tunnels_lost",
            "Idle tunnels ended by the agent or by the network",
            self.tunnels_lost.clone(),
        );
        registry.register(
            "agent_unauthenticated_calls",
            "Calls of agents refused for a missing or invalid token",
            self.unauthenticated.clone(),
        );
    }
}
