//! The metrics of the audit trail.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::Recorded;

/// The metrics. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditMetrics {
    records: Family<RecordLabels, Counter>,
    failing: Family<SinkLabels, Gauge>,
    refused: Counter,
    recordings: Family<RecordingLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecordingLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecordLabels {
    sink: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabels {
    sink: String,
}

/// What became of a record at a sink.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    /// It was taken.
    Written,
    /// It is lost.
    Dropped,
}

impl AuditMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "audit_records",
            "Audit records, by sink and what became of them",
            self.records.clone(),
        );
        registry.register(
            "audit_sink_failing",
            "Whether a sink of audit records cannot be written at present",
            self.failing.clone(),
        );
        registry.register(
            "audit_refused_requests",
            "Requests refused because their audit record could not be written in time",
            self.refused.clone(),
        );
        registry.register(
            "audit_recordings",
            "Recordings of sessions, by what became of them: whole, failed, or removed to make room",
            self.recordings.clone(),
        );
    }

    pub(crate) fn recording(&self, recorded: &Recorded) {
        let outcome = match recorded {
            it if it.removed => "removed",
            it if it.reason.is_none() => "whole",
            _ => "failed",
        };
        let labels = RecordingLabels { outcome };
        self.recordings.get_or_create(&labels).inc();
    }

    pub(crate) fn records(&self, sink: &str, outcome: Outcome, number: u64) {
        let labels = RecordLabels {
            sink: sink.to_owned(),
            outcome: match outcome {
                Outcome::Written => "written",
                Outcome::Dropped => "dropped",
            },
        };
        self.records.get_or_create(&labels).inc_by(number);
    }

    pub(crate) fn failing(&self, sink: &str, is_failing: bool) {
        let labels = SinkLabels {
            sink: sink.to_owned(),
        };
        let gauge = self.failing.get_or_create(&labels);
        gauge.set(i64::from(is_failing));
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }
}
