//! What is told of each agent.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicU64},
    time::{SystemTime, UNIX_EPOCH},
};

use agent_gateway::Clusters;
use cluster_state::AgentId;
use control_plane::{AgentInfo, ControlPlane};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge},
    registry::Registry as Metrics,
};
use router::Registry;
use user_gateway::{AgentTraffic, Metrics as Requests};

use super::encode;

/// Who knows of agents, without asking anybody.
#[derive(Debug)]
pub struct KnownAgents {
    /// Those that are registered, or with a GitLab those that were here lately.
    pub control_plane: Arc<dyn ControlPlane>,
    /// The pins of those that were here at any time, at any replica.
    pub clusters: Option<Arc<Clusters>>,
}

impl KnownAgents {
    /// Those that have series, `max` at most, and those that have none; each agent once, by their numbers. A GitLab tells
    /// of no agent before it comes, so that when all replicas are new none would be missed of those that are away: their
    /// clusters' pins tell of them, without their names.
    fn split(&self, max: usize) -> [Vec<Arc<AgentInfo>>; 2] {
        let known = self.control_plane.known_agents();
        let clusters = self.clusters.as_ref();
        let clusters = clusters.filter(|_| !self.control_plane.knows_all_agents());
        let pinned = clusters.map_or_else(Vec::new, |it| it.known_pinned());
        split(known, pinned, max)
    }
}

/// Those that are known and those that are pinned. The latter go first: all replicas know of the same, so that one that
/// is connected to another replica does not lack the series there that says so.
fn split(
    mut known: Vec<Arc<AgentInfo>>,
    mut pinned: Vec<AgentId>,
    max: usize,
) -> [Vec<Arc<AgentInfo>>; 2] {
    known.sort_unstable_by_key(|agent| agent.id);
    pinned.sort_unstable();
    let nameless = pinned.iter().copied();
    let nameless = nameless.filter(|id| known.binary_search_by_key(id, |it| it.id).is_err());
    let nameless: Vec<_> = nameless
        .map(|id| {
            Arc::new(AgentInfo {
                id,
                name: String::new(),
                project_id: 0,
                project_path: String::new(),
                default_branch: String::new(),
            })
        })
        .collect();
    known.extend(nameless);
    known.sort_unstable_by_key(|agent| (pinned.binary_search(&agent.id).is_err(), agent.id));
    let mut omitted = known.split_off(known.len().min(max));
    for agents in [&mut known, &mut omitted] {
        agents.sort_unstable_by_key(|agent| agent.id);
    }
    [known, omitted]
}

/// Adds what is told of each known agent, of `max` of them at most.
pub fn register_agents(
    numbers: &mut Metrics,
    registry: &Arc<Registry>,
    known: KnownAgents,
    requests: Requests,
    max: usize,
) {
    numbers.register_collector(Box::new(Agents {
        registry: Arc::downgrade(registry),
        known,
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
    known: KnownAgents,
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
        let [known, omitted] = self.known.split(self.max);
        let connected: HashSet<_> = registry.agents().into_iter().collect();
        let of_these = omitted.iter().filter(|it| connected.contains(&it.id));
        encode(
            &mut encoder,
            [
                (
                    "agent_series_omitted",
                    "Agents without metrics of their own, because there are more than observability.max_agent_series",
                    omitted.len(),
                ),
                (
                    "agent_series_omitted_connected",
                    "Agents without metrics of their own that are connected to this replica; the sum over all replicas counts an agent once for each replica that it is connected to",
                    of_these.count(),
                ),
            ],
        )?;
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
    /// The requests of these agents, and of all others; nothing where no agent has metrics of its own. Those whose names
    /// are not known have not been here, and would be two series once they are.
    fn encode_requests(
        &self,
        agents: &[Arc<AgentInfo>],
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let named = agents.iter().filter(|agent| !agent.name.is_empty());
        let named: Vec<_> = named.collect();
        let ids: Vec<_> = named.iter().map(|agent| agent.id).collect();
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
        for (agent, traffic) in named.into_iter().zip(&own) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_pinned_is_known_once_and_with_the_name_where_there_is_one() {
        let named = |id, name: &str| {
            Arc::new(AgentInfo {
                id: AgentId(id),
                name: name.to_owned(),
                project_id: 3,
                project_path: "g/p".to_owned(),
                default_branch: "main".to_owned(),
            })
        };
        let pinned = [9, 7, 5].map(AgentId).to_vec();

        let known = || vec![named(8, "b"), named(7, "a")];
        let told = |agents: &[Arc<AgentInfo>]| -> Vec<_> {
            let agents = agents.iter();
            agents.map(|it| (it.id.0, it.name.clone())).collect()
        };
        let text = |(id, name): (i64, &str)| (id, name.to_owned());

        let [all, none] = split(known(), pinned.clone(), 10);
        let wanted = [(5, ""), (7, "a"), (8, "b"), (9, "")].map(text);
        assert_eq!((told(&all), none.len()), (wanted.to_vec(), 0));
        let [first, rest] = split(known(), pinned, 3);
        let wanted = [(5, ""), (7, "a"), (9, "")].map(text);
        assert_eq!(told(&first), wanted, "the pinned ones first");
        assert_eq!(told(&rest), [text((8, "b"))]);
        let [first, rest] = split(known(), Vec::new(), 1);
        assert_eq!((told(&first), rest.len()), (vec![text((7, "a"))], 1));
    }
}
