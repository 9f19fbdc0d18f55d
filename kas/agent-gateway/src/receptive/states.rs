//! How the receptive agents stand that this replica dials: for logs and metrics.

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

use super::trouble::Trouble;

/// Shared by all who dial. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ReceptiveStates(Arc<Mutex<BTreeMap<AgentId, State>>>);

/// How one stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    /// `connected`, `dialling`, or why it is not connected.
    word: &'static str,
    /// What was said of it last.
    reason: String,
}

impl ReceptiveStates {
    /// Adds them to the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// It is dialled, for the first time or after all was well.
    pub(super) fn dialling(&self, agent: AgentId) {
        self.lock().entry(agent).or_insert_with(|| State {
            word: "dialling",
            reason: String::new(),
        });
    }

    pub(super) fn connected(&self, agent: AgentId, url: &str) {
        tracing::info!(agent_id = agent.0, url, "a receptive agent is connected");
        self.put(agent, "connected", String::new());
    }

    /// It cannot be used now; the same reason is said once.
    pub(super) fn failed(&self, agent: AgentId, url: &str, trouble: &Trouble) {
        let reason = trouble.to_string();
        let before = self.put(agent, trouble.word(), reason.clone());
        if matches!(trouble, Trouble::Ended) {
            tracing::info!(
                agent_id = agent.0,
                url,
                "the connection to a receptive agent ended"
            );
        } else if before.is_none_or(|it| it.reason != reason) {
            tracing::warn!(
                agent_id = agent.0,
                url,
                reason,
                "a receptive agent is not connected; it is dialled again"
            );
        }
    }

    /// Another replica dials it, or nobody.
    pub(super) fn gone(&self, agent: AgentId) {
        self.lock().remove(&agent);
    }

    fn put(&self, agent: AgentId, word: &'static str, reason: String) -> Option<State> {
        self.lock().insert(agent, State { word, reason })
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
            "Receptive agents that this replica dials, and how they stand",
            None,
            MetricType::Gauge,
        )?;
        for (agent, state) in states.iter() {
            let labels = [
                ("agent_id", agent.to_string()),
                ("state", state.word.to_owned()),
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
        states.failed(AgentId(2), "grpc://a", &Trouble::Other(AgentId(9)));
        states.connected(AgentId(3), "grpc://b");
        states.dialling(AgentId(3));
        states.gone(AgentId(1));

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
