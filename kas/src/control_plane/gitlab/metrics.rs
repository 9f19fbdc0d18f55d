//! How many requests GitLab got, and how they ended.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{call::Endpoint, error::CallError};

/// Requests to GitLab by call and outcome. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct GitLabMetrics(Family<Labels, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    call: &'static str,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    /// Success.
    Ok,
    /// GitLab said no.
    Refused,
    /// There was no answer that can be used.
    Failed,
    /// It was not sent: GitLab is away, or too many wait.
    HeldBack,
}

impl GitLabMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "gitlab_requests",
            "Requests to GitLab's internal API, repeated ones included",
            self.0.clone(),
        );
    }

    pub(super) fn count<T>(&self, endpoint: Endpoint, result: &Result<T, CallError>) {
        let outcome = match result {
            Ok(_) => Outcome::Ok,
            Err(error) if error.refusal().is_some() => Outcome::Refused,
            Err(CallError::Away { .. } | CallError::Crowded) => Outcome::HeldBack,
            Err(_) => Outcome::Failed,
        };
        let call = endpoint.name();
        self.0.get_or_create(&Labels { call, outcome }).inc();
    }
}
