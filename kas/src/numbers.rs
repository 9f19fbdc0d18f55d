//! Metrics that are read from the router when somebody asks.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicU64},
    time::{SystemTime, UNIX_EPOCH},
};

use cluster_state::{AgentId, SharedTable};
use control_plane::{AgentInfo, ControlPlane};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry as Metrics,
};
use router::Registry;
use runtime::metrics::ProcessMetrics;
use user_gateway::{AgentTraffic, Metrics as Requests};

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

/// Adds what is told of each agent that `control_plane` knows, of `max` of them at most.
pub fn register_agents(
    numbers: &mut Metrics,
    registry: &Arc<Registry>,
    control_plane: Arc<dyn ControlPlane>,
    requests: Requests,
    max: usize,
) {
    numbers.register_collector(Box::new(Agents {
        registry: Arc::downgrade(registry),
        control_plane,
        requests,
        max,
        last_seen: Mutex::default(),
    }));
}

/// An agent, as labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentLabels {
    agent_id: String,
    agent_name: String,
}

impl AgentLabels {
    fn of(agent: &AgentInfo) -> Self {
        Self {
            agent_id: agent.id.to_string(),
            agent_name: agent.name.clone(),
        }
    }

    /// All agents without a series: no agent's number is a word, and no name has a space.
    fn others() -> Self {
        Self {
            agent_id: "other".to_owned(),
            agent_name: "all others".to_owned(),
        }
    }
}

#[derive(Debug)]
struct Agents {
    registry: Weak<Registry>,
    control_plane: Arc<dyn ControlPlane>,
    requests: Requests,
    max: usize,
    /// When an agent was here last, in seconds since 1970, as far as somebody asked.
    last_seen: Mutex<HashMap<AgentId, f64>>,
}

impl Collector for Agents {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(registry) = self.registry.upgrade() else {
            return Ok(());
        };
        let mut known = self.control_plane.known_agents();
        known.sort_unstable_by_key(|agent| agent.id);
        let omitted = known.len().saturating_sub(self.max);
        encode(
            &mut encoder,
            [(
                "agent_series_omitted",
                "Agents without metrics of their own, because there are more than observability.max_agent_series",
                omitted,
            )],
        )?;
        known.truncate(self.max);
        let connected: HashSet<_> = registry.agents().into_iter().collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0.0, |it| it.as_secs_f64());
        let (up, seen) = (
            Family::<AgentLabels, Gauge>::default(),
            Family::<AgentLabels, Gauge<f64, AtomicU64>>::default(),
        );
        let mut last_seen = self
            .last_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last_seen.retain(|id, _| known.binary_search_by_key(id, |it| it.id).is_ok());
        for agent in &known {
            let labels = AgentLabels::of(agent);
            let is_here = connected.contains(&agent.id);
            up.get_or_create(&labels).set(i64::from(is_here));
            if is_here {
                last_seen.insert(agent.id, now);
            }
            if let Some(at) = last_seen.get(&agent.id) {
                seen.get_or_create(&labels).set(*at);
            }
        }
        let gauge = MetricType::Gauge;
        let help = "Whether an agent is connected to this replica (1); the maximum over all replicas says whether it is connected at all";
        up.encode(encoder.encode_descriptor("agent_up", help, None, gauge)?)?;
        let (name, help) = (
            "agent_last_seen_timestamp_seconds",
            "When an agent was last connected to this replica, in seconds since 1970, as of the last scrape that saw it",
        );
        seen.encode(encoder.encode_descriptor(name, help, None, gauge)?)?;
        self.encode_requests(&known, &mut encoder)
    }
}

impl Agents {
    /// The requests of these agents, and of all others; nothing where no agent has metrics of its own.
    fn encode_requests(
        &self,
        agents: &[Arc<AgentInfo>],
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let ids: Vec<_> = agents.iter().map(|agent| agent.id).collect();
        let (own, others) = self.requests.agent_traffic(&ids);
        let (requests, failed, took) = (
            Family::<AgentLabels, Counter>::default(),
            Family::<AgentLabels, Counter>::default(),
            Family::<AgentLabels, Counter<f64, AtomicU64>>::default(),
        );
        let tell = |labels: &AgentLabels, traffic: &AgentTraffic| {
            requests.get_or_create(labels).inc_by(traffic.requests);
            failed.get_or_create(labels).inc_by(traffic.failed);
            let seconds = traffic.took.as_secs_f64();
            took.get_or_create(labels).inc_by(seconds);
        };
        for (agent, traffic) in agents.iter().zip(&own) {
            tell(&AgentLabels::of(agent), traffic);
        }
        if self.max > 0 {
            tell(&AgentLabels::others(), &others);
        }
        let counter = MetricType::Counter;
        let (name, help) = (
            "k8s_api_proxy_agent_requests",
            "Reads and writes of an agent that are over; other is the sum of all agents without metrics of their own",
        );
        requests.encode(encoder.encode_descriptor(name, help, None, counter)?)?;
        let (name, help) = (
            "k8s_api_proxy_agent_requests_failed",
            "Reads and writes of an agent that ended with a status of 500 or more, or without a whole answer",
        );
        failed.encode(encoder.encode_descriptor(name, help, None, counter)?)?;
        let (name, help) = (
            "k8s_api_proxy_agent_request_seconds",
            "How long the reads and writes of an agent took that are over",
        );
        took.encode(encoder.encode_descriptor(name, help, None, counter)?)
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
