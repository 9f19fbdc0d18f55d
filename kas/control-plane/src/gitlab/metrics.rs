//! How many requests GitLab got, and how they ended.

use http::StatusCode;
use prometheus_client::registry::Registry;

use super::{call::Endpoint, error::CallError};
use crate::call_metrics::{CallCounter, Outcome};

/// What requests of agents' modules are counted under.
const MODULES: &str = "modules";

/// Requests to GitLab by call and outcome. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct GitLabMetrics(CallCounter);

impl GitLabMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests to GitLab's internal API by call and outcome, retries included";
        self.0.register(registry, "gitlab_requests", help);
    }

    /// Counts a request of an agent's module, by what GitLab answered to it.
    pub(super) fn count_module(&self, answered: Option<StatusCode>) {
        let outcome = match answered {
            Some(status) if status.is_client_error() => Outcome::Refused,
            Some(status) if !status.is_server_error() => Outcome::Ok,
            Some(_) | None => Outcome::Failed,
        };
        self.0.count(MODULES, outcome);
    }

    /// Counts one that was not sent because of the limits.
    pub(super) fn count_module_held_back(&self) {
        self.0.count(MODULES, Outcome::HeldBack);
    }

    pub(super) fn count<T>(&self, endpoint: Endpoint, result: &Result<T, CallError>) {
        let outcome = match result {
            Ok(_) => Outcome::Ok,
            Err(error) if error.refusal().is_some() => Outcome::Refused,
            Err(
                CallError::CircuitOpen { .. }
                | CallError::RateLimited
                | CallError::NoConnection
                | CallError::TooManyUnknown,
            ) => Outcome::HeldBack,
            Err(_) => Outcome::Failed,
        };
        self.0.count(endpoint.name(), outcome);
    }
}
