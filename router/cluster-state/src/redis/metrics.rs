//! Metrics of the store.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Metrics of one store. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct StoreMetrics {
    operations: Family<Operation, Counter>,
    pub(super) connected: Gauge,
    rejected: Family<Entry, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Entry {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
    outcome: &'static str,
}

impl StoreMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "routing_store_operations",
            "Operations on the routing store, by operation and outcome",
            self.operations.clone(),
        );
        registry.register(
            "routing_store_connected",
            "Whether the connection to the routing store is up (1) or down (0)",
            self.connected.clone(),
        );
        registry.register(
            "routing_store_rejected_entries",
            "Entries read from the routing store and ignored, since their signature was invalid, or they were malformed or too large; counted with each read",
            self.rejected.clone(),
        );
    }

    pub(super) fn reject(&self, kind: &'static str) {
        self.rejected.get_or_create(&Entry { kind }).inc();
    }

    pub(super) fn count(&self, operation: &'static str, ok: bool) {
        let outcome = if ok { "ok" } else { "error" };
        self.operations
            .get_or_create(&Operation { operation, outcome })
            .inc();
    }
}
