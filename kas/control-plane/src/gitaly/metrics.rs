//! How many calls Gitaly got, and how they ended.

use prometheus_client::registry::Registry;

use super::{ErrorKind, GitalyError};
use crate::call_metrics::{CallCounter, Outcome};

/// Calls to Gitaly by method and outcome. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct GitalyMetrics(CallCounter);

impl GitalyMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        self.0.register(
            registry,
            "gitaly_requests",
            "gRPC calls to Gitaly by method and outcome",
        );
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
        self.0.count(call, outcome);
    }
}
