//! Metrics that are read from the router when somebody asks.

mod agents;

use std::sync::{Arc, Weak};

use cluster_state::SharedTable;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry as Metrics,
};
use router::Registry;
use runtime::metrics::ProcessMetrics;

pub use agents::{KnownAgents, register_agents};

/// Adds what concerns the whole process to `numbers`.
pub fn register_process(numbers: &mut Metrics) {
    let build = Family::<Build, Gauge>::default();
    let version = format!("v{}", crate::version::VERSION);
    build.get_or_create_owned(&Build { version }).set(1);
    let help = "The version of this build, always 1";
    numbers.register("gitlab_build_info", help, build);
    runtime::metrics::limiters::register(numbers);
    runtime::reloads::register(numbers);
    runtime::traces::register(numbers);
    numbers.register_collector(Box::new(ProcessMetrics));
}

/// The labels of `gitlab_build_info`; when it was built is not kept, so that builds can be compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: String,
}

/// Adds the numbers of `registry` to `numbers`.
pub fn register(numbers: &mut Metrics, registry: &Arc<Registry>) {
    numbers.register_collector(Box::new(Tunnels(Arc::downgrade(registry))));
}

/// Adds the numbers of `table` to `numbers`.
pub fn register_table(numbers: &mut Metrics, table: &Arc<SharedTable>) {
    numbers.register_collector(Box::new(Table(Arc::downgrade(table))));
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
        let gauges = [
            ("tunnels_idle", "Idle tunnels", idle),
            ("tunnels", "Tunnels, idle and in use", alive),
            (
                "connected_agents_count",
                "Agents with at least one tunnel to this replica",
                agents,
            ),
        ];
        encode(&mut encoder, gauges)?;
        let cut = ConstCounter::new(registry.readers().cut());
        let kind = prometheus_client::metrics::MetricType::Counter;
        let help = "Responses of agents cut because their client did not read them while other requests needed the flow-control window of the agent's connection";
        cut.encode(encoder.encode_descriptor("unread_answers_cut", help, None, kind)?)
    }
}

#[derive(Debug)]
struct Table(Weak<SharedTable>);

impl Collector for Table {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(table) = self.0.upgrade() else {
            return Ok(());
        };
        let stats = table.stats();
        let gauges = [
            (
                "routing_replicas",
                "Live replicas, as this one sees them",
                stats.replicas,
            ),
            (
                "routing_records",
                "Agents whose routing records are cached",
                stats.records,
            ),
            (
                "routing_changes_pending",
                "Changes not written to the routing store yet",
                stats.pending,
            ),
            (
                "routing_store_budget",
                "Operations on the routing store that the budget allows now",
                stats.budget,
            ),
            (
                "routing_certain",
                "Whether an agent without an entry in the routing store is known to be absent (1), or entries may be missing (0)",
                usize::from(stats.authoritative),
            ),
        ];
        encode(&mut encoder, gauges)
    }
}

fn encode<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    gauges: [(&str, &str, usize); N],
) -> Result<(), std::fmt::Error> {
    for (name, help, value) in gauges {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let kind = prometheus_client::metrics::MetricType::Gauge;
        gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
    }
    Ok(())
}
