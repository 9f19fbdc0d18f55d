//! The state of each receptive agent that this replica dials, for logs and metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use router::AgentId;
use runtime::telemetry::Causes;

use super::dial_error::DialError;

/// The states of all that are dialled. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct ReceptiveStates(Arc<Mutex<BTreeMap<AgentId, State>>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    /// `connected`, `dialling`, or [`DialError::state`].
    state: &'static str,
    /// The error that was logged last.
    error: String,
}

impl ReceptiveStates {
    /// Registers the metric `receptive_agent`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// Notes an agent that is dialled for the first time; the state of a known one stays until the outcome.
    pub(super) fn dialling(&self, agent: AgentId) {
        self.lock().entry(agent).or_insert_with(|| State {
            state: "dialling",
            error: String::new(),
        });
    }

    pub(super) fn connected(&self, agent: AgentId, url: &str, form: &str) {
        tracing::info!(agent.id = agent.0, url, form, "receptive agent connected");
        self.put(agent, "connected", String::new());
    }

    /// Notes that an agent is not connected. The same error is logged once in a row.
    pub(super) fn failed(&self, agent: AgentId, url: &str, failure: &DialError) {
        let error = Causes(failure).to_string();
        let before = self.put(agent, failure.state(), error.clone());
        if matches!(failure, DialError::Ended) {
            tracing::info!(
                agent.id = agent.0,
                url,
                "receptive agent disconnected; dialling it again"
            );
        } else if before.is_none_or(|it| it.error != error) {
            tracing::warn!(
                agent.id = agent.0,
                url,
                error,
                "could not connect to receptive agent; retrying"
            );
        }
    }

    /// Forgets an agent that this replica does not dial any more.
    pub(super) fn remove(&self, agent: AgentId) {
        self.lock().remove(&agent);
    }

    fn put(&self, agent: AgentId, state: &'static str, error: String) -> Option<State> {
        self.lock().insert(agent, State { state, error })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentId, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for ReceptiveStates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let states = self.lock();
        if states.is_empty() {
            return Ok(());
        }
        let mut family = encoder.encode_descriptor(
            "receptive_agent",
            "Receptive agents that this replica dials, by their state; 1 for each",
            None,
            MetricType::Gauge,
        )?;
        for (agent, state) in states.iter() {
            let labels = [
                ("agent_id", agent.to_string()),
                ("state", state.state.to_owned()),
            ];
            ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_name_each_agent_and_why_it_is_not_connected() {
        let states = ReceptiveStates::default();
        let mut registry = Registry::default();
        states.register(&mut registry);
        let shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        assert!(!shown().contains("receptive"));

        states.dialling(AgentId(1));
        states.failed(AgentId(2), "grpc://a", &DialError::Other(AgentId(9)));
        states.connected(AgentId(3), "grpc://b", "attach");
        states.dialling(AgentId(3));
        states.remove(AgentId(1));

        let text = shown();
        assert!(
            text.contains(r#"receptive_agent{agent_id="2",state="another_agent"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"receptive_agent{agent_id="3",state="connected"} 1"#),
            "{text}"
        );
        assert!(!text.contains(r#"agent_id="1""#), "{text}");
    }
}
