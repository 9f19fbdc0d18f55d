//! The agent's metrics.

use std::{ops::Deref, sync::Arc};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use runtime::metrics::ProcessMetrics;

/// The agent's metrics. Clones share them, and cost no more than one of them would: each request has some.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics(Arc<All>);

#[derive(Debug, Default)]
pub(crate) struct All {
    pub(crate) connected: Gauge,
    pub(crate) connections: Counter,
    pub(crate) connection_failures: Counter,
    pub(crate) tunnels_idle: Gauge,
    pub(crate) tunnels_active: Gauge,
    pub(crate) calls: Counter,
    pub(crate) calls_failed: Counter,
    pub(crate) repeats: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) upgrades_detached: Gauge,
    pub(crate) upgrades_resumed: Counter,
    pub(crate) answers_detached: Counter,
    pub(crate) answers_recovered: Counter,
    pub(crate) upgrades_abandoned: Counter,
    pub(crate) leader: Gauge,
    pub(crate) events_reported: Counter,
    pub(crate) events_dropped: Counter,
}

impl Deref for Metrics {
    type Target = All;

    fn deref(&self) -> &All {
        &self.0
    }
}

impl Metrics {
    /// A registry of all of them.
    pub(crate) fn registry(&self) -> Registry {
        let mut all = Registry::default();
        all.register_collector(Box::new(ProcessMetrics));
        runtime::reloads::register(&mut all);
        runtime::traces::register(&mut all);
        let registry = all.sub_registry_with_prefix("agentk");
        registry.register(
            "connected",
            "Connections to kas on which the agent is accepted",
            self.connected.clone(),
        );
        registry.register(
            "connections",
            "Connections established to kas",
            self.connections.clone(),
        );
        registry.register(
            "connection_failures",
            "Connections to kas that failed or were rejected",
            self.connection_failures.clone(),
        );
        registry.register("tunnels_idle", "Idle tunnels", self.tunnels_idle.clone());
        registry.register(
            "tunnels_active",
            "Tunnels with a call in progress",
            self.tunnels_active.clone(),
        );
        registry.register(
            "calls",
            "Calls received through tunnels",
            self.calls.clone(),
        );
        registry.register(
            "calls_failed",
            "Calls that failed",
            self.calls_failed.clone(),
        );
        registry.register(
            "api_repeats",
            "Requests sent to the Kubernetes API again, since it had not taken them or their connection was lost",
            self.repeats.clone(),
        );
        registry.register(
            "received_bytes",
            "Bytes received from kas in request bodies and upgraded connections",
            self.bytes_received.clone(),
        );
        registry.register(
            "sent_bytes",
            "Bytes sent to kas in response bodies and upgraded connections",
            self.bytes_sent.clone(),
        );
        registry.register(
            "upgraded_connections_detached",
            "Upgraded connections whose call broke, which are kept open until kas resumes them",
            self.upgrades_detached.clone(),
        );
        registry.register(
            "upgraded_connections_resumed",
            "Upgraded connections that kas resumed through another tunnel",
            self.upgrades_resumed.clone(),
        );
        registry.register(
            "upgraded_connections_abandoned",
            "Upgraded connections whose call broke and that kas did not resume in time",
            self.upgrades_abandoned.clone(),
        );
        registry.register(
            "answers_detached",
            "Requests that change something and whose tunnel broke, which went on so that kas can ask for their answers",
            self.answers_detached.clone(),
        );
        registry.register(
            "answers_recovered",
            "Answers to such requests that kas asked for through another tunnel",
            self.answers_recovered.clone(),
        );
        registry.register(
            "leader",
            "1 if this pod is the leader of its agent's pods, else 0",
            self.leader.clone(),
        );
        registry.register(
            "events_reported",
            "Events of the cluster that kas has acknowledged",
            self.events_reported.clone(),
        );
        registry.register(
            "events_dropped",
            "Occurrences of events dropped because the queue for kas was full",
            self.events_dropped.clone(),
        );
        all
    }
}
