//! How many calls Gitaly got, and how they ended.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{ErrorKind, GitalyError};

/// Calls to Gitaly by method and outcome. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct GitalyMetrics(Family<Labels, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    call: &'static str,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    /// Success.
    Ok,
    /// Gitaly says that there is no such thing, or not such a one.
    Refused,
    /// There was no answer that can be used.
    Failed,
}

impl GitalyMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("gitaly_requests", "Calls to Gitaly", self.0.clone());
    }

    pub(super) fn count<T>(&self, call: &'static str, result: &Result<T, GitalyError>) {
        let outcome = match result.as_ref().map_err(|error| error.kind) {
            Ok(_) => Outcome::Ok,
            Err(
                ErrorKind::NotFound
                | ErrorKind::FileTooBig
                | ErrorKind::UnexpectedTreeEntryType
                | ErrorKind::InvalidArgument,
            ) => Outcome::Refused,
            Err(ErrorKind::ProtocolError | ErrorKind::RpcError) => Outcome::Failed,
        };
        self.0.get_or_create(&Labels { call, outcome }).inc();
    }
}
