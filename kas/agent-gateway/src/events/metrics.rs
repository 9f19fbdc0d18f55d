//! The metrics of cluster events.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use proto::events::rpc::Batch;

/// The metrics. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct EventMetrics {
    received: Counter,
    dropped: Counter,
    webhooks: Family<Labels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: Outcome,
}

/// The outcome of a delivery to a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Outcome {
    /// Delivered.
    Ok,
    /// An attempt failed; there will be another.
    Retried,
    /// The last attempt failed.
    Failed,
    /// The queue was full.
    Dropped,
}

impl EventMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "cluster_events",
            "Cluster events reported by agents",
            self.received.clone(),
        );
        registry.register(
            "cluster_events_dropped",
            "Occurrences of cluster events dropped by agents whose queue was full",
            self.dropped.clone(),
        );
        registry.register(
            "cluster_event_webhooks",
            "Deliveries of cluster events to webhooks, by outcome",
            self.webhooks.clone(),
        );
    }

    pub(super) fn received(&self, batch: &Batch) {
        let events = u64::try_from(batch.events.len()).unwrap_or_default();
        self.received.inc_by(events);
        self.dropped.inc_by(batch.dropped);
    }

    pub(super) fn webhook(&self, outcome: Outcome) {
        self.webhooks.get_or_create(&Labels { outcome }).inc();
    }
}
