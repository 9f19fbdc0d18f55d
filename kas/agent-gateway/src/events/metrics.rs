//! What is counted of events.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use proto::events::rpc::Batch;

/// The numbers. Clones share them.
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

/// What became of a batch for a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Outcome {
    /// It was taken.
    Ok,
    /// An attempt failed.
    Retried,
    /// It was given up.
    Failed,
    /// There was no room for it.
    Dropped,
}

impl EventMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "cluster_events",
            "Events that agents told of",
            self.received.clone(),
        );
        registry.register(
            "cluster_events_dropped",
            "Occurrences of events that agents had no room for",
            self.dropped.clone(),
        );
        registry.register(
            "cluster_event_webhooks",
            "Batches of events for webhooks",
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
