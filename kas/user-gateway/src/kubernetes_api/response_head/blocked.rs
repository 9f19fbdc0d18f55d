//! Headers of an answer that do not pass, counted and told of.

use http::HeaderName;
use router::AgentId;
use runtime::telemetry::{Repeats, Untrusted};

use crate::{headers::is_hop_by_hop, metrics::Metrics};

/// Names of blocked headers in a line of the log.
const BLOCKED_NAMES_SHOWN: usize = 5;
/// Headers of an answer that do not pass.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    names: Vec<HeaderName>,
    more: u64,
}

impl Blocked {
    /// One more, unless it speaks of a connection.
    pub(super) fn add(&mut self, name: HeaderName) {
        if is_hop_by_hop(&name) {
            return;
        }
        if self.names.len() < BLOCKED_NAMES_SHOWN {
            self.names.push(name);
        } else {
            self.more += 1;
        }
    }

    /// Counts them, and tells of some.
    pub(super) fn report(&self, agent: AgentId, metrics: &Metrics) {
        static BLOCKED: Repeats = Repeats::sparse("header of a cluster's answer blocked");
        if self.names.is_empty() {
            return;
        }
        metrics.blocked_headers(self.names.len() as u64 + self.more);
        if BLOCKED.admit() {
            let names: Vec<_> = self.names.iter().map(HeaderName::as_str).collect();
            let headers = names.join(", ");
            tracing::info!(
                agent.id = agent.0,
                headers = %Untrusted(&headers),
                more = self.more,
                "headers of the cluster's answer blocked; see extra_allowed_response_headers"
            );
        }
    }
}
