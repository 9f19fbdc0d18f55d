//! Metrics that are read from the router when somebody asks.

use std::sync::{Arc, Weak};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
    registry::Registry as Metrics,
};
use router::Registry;

/// Adds the numbers of `registry` to `numbers`.
pub fn register(numbers: &mut Metrics, registry: &Arc<Registry>) {
    numbers.register_collector(Box::new(Tunnels(Arc::downgrade(registry))));
}

#[derive(Debug)]
struct Tunnels(Weak<Registry>);

impl Collector for Tunnels {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(registry) = self.0.upgrade() else {
            return Ok(());
        };
        let (idle, alive) = registry.counts();
        let agents = registry.agents().len();
        for (name, help, value) in [
            ("tunnels_idle", "Tunnels that wait for a call", idle),
            ("tunnels", "Tunnels, idle or in use", alive),
            (
                "connected_agents_count",
                "Agents with a tunnel to this replica",
                agents,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let kind = prometheus_client::metrics::MetricType::Gauge;
            gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        Ok(())
    }
}
