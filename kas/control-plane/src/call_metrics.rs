//! How often another server was called, and how the calls ended.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Calls by name and outcome. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallCounter(Family<Labels, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    call: &'static str,
    outcome: Outcome,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    /// Success.
    Ok,
    /// The server said no, or that there is no such thing.
    Refused,
    /// There was no answer that can be used.
    Failed,
    /// It was not sent: the server is away, or too many wait.
    HeldBack,
}

impl CallCounter {
    pub(crate) fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.0.clone());
    }

    pub(crate) fn count(&self, call: &'static str, outcome: Outcome) {
        self.0.get_or_create(&Labels { call, outcome }).inc();
    }
}
