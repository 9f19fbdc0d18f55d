//! How many requests GitLab got, and how they ended.

use prometheus_client::registry::Registry;

use super::{call::Endpoint, error::CallError};
use crate::call_metrics::{CallCounter, Outcome};

/// Requests to GitLab by call and outcome. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct GitLabMetrics(CallCounter);

impl GitLabMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests to GitLab's internal API by call and outcome, retries included";
        self.0.register(registry, "gitlab_requests", help);
    }

    pub(super) fn count<T>(&self, endpoint: Endpoint, result: &Result<T, CallError>) {
        let outcome = match result {
            Ok(_) => Outcome::Ok,
            Err(error) if error.refusal().is_some() => Outcome::Refused,
            Err(
                CallError::CircuitOpen { .. } | CallError::RateLimited | CallError::TooManyUnknown,
            ) => Outcome::HeldBack,
            Err(_) => Outcome::Failed,
        };
        self.0.count(endpoint.name(), outcome);
    }
}
