//! All agents at one moment: who is registered, and who is connected where.
//!
//! Reading them costs one command for each replica and some CPU time, so that one reading serves all who ask within
//! a second. Later ones get it too for some seconds, while another is made in the background; only who comes after a
//! long silence waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agent_gateway::{ConnectedProcess, processes};
use cluster_state::{AgentId, PresenceQuery, ReplicaId, StoreError, StoreHealth};
use control_plane::AgentInfo;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    Sources,
    agent_state::{CONNECTED, DEGRADED, DISCONNECTED, UNKNOWN},
    coverage::complete,
    health::Problems,
    replica::{Own, count},
    v1::{Agent, Coverage, Process},
};

/// How long a reading is new.
const FRESH: Duration = Duration::from_secs(1);
/// How long it is still given out while another one is made.
const USABLE: Duration = Duration::from_secs(5);
/// How long the store may take.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// The same once it did not answer.
const UNAVAILABLE_TIMEOUT: Duration = Duration::from_millis(300);
/// Processes of one agent that are told.
const MAX_PROCESSES: usize = 200;

/// Reads the fleet.
#[derive(Debug)]
pub(crate) struct Fleet {
    sources: Sources,
    own: Own,
    last: Mutex<Option<Arc<Snapshot>>>,
    /// Held by the one who reads.
    reading: tokio::sync::Mutex<()>,
}

/// All agents, as they were read.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// By their ids, with all that is known.
    pub(crate) agents: Vec<Agent>,
    /// How many are connected.
    pub(crate) connected: usize,
    /// How many of these are degraded.
    pub(crate) degraded: usize,
    /// Of how many it is not known.
    pub(crate) unknown: usize,
    pub(crate) coverage: Coverage,
    taken: Instant,
}

impl Fleet {
    pub(crate) fn new(sources: Sources, own: Own) -> Arc<Self> {
        Arc::new(Self {
            sources,
            own,
            last: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        })
    }

    /// A reading that is a few seconds old at most.
    pub(crate) async fn snapshot(self: &Arc<Self>) -> Arc<Snapshot> {
        if let Some(last) = self.newer_than(FRESH) {
            return last;
        }
        if let Some(last) = self.newer_than(USABLE) {
            if let Ok(reading) = self.reading.try_lock() {
                drop(reading);
                let fleet = self.clone();
                // It ends by itself: the store has a deadline.
                tokio::spawn(async move { fleet.read(FRESH).await });
            }
            return last;
        }
        // Apart from whoever asks: a reading that is begun is of use to the next one, even if this one gives up.
        let fleet = self.clone();
        let reading = tokio::spawn(async move { fleet.read(USABLE).await });
        match reading.await {
            Ok(snapshot) => snapshot,
            // It panicked, which was logged; whoever asks sees the same.
            Err(_) => self.read(USABLE).await,
        }
    }

    /// Reads, unless somebody has while this waited for its turn.
    async fn read(&self, age: Duration) -> Arc<Snapshot> {
        let _reading = self.reading.lock().await;
        if let Some(last) = self.newer_than(age) {
            return last;
        }
        let snapshot = Arc::new(read(&self.sources, &self.own).await);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot.clone());
        snapshot
    }

    fn newer_than(&self, age: Duration) -> Option<Arc<Snapshot>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone().filter(|it| it.taken.elapsed() < age)
    }
}

async fn read(sources: &Sources, own: &Own) -> Snapshot {
    let taken = Instant::now();
    let mut coverage = complete(&sources.me.replica);
    let patience = match sources.table.store_health() {
        StoreHealth::Unavailable => UNAVAILABLE_TIMEOUT,
        StoreHealth::InMemory | StoreHealth::Available => STORE_TIMEOUT,
    };
    let published = sources.tracker.published(&PresenceQuery::All);
    let published = tokio::time::timeout(patience, published);
    let (published, earlier, problems) = tokio::join!(
        published,
        earlier(sources, patience),
        Problems::read(sources, own)
    );
    let published = published.unwrap_or(Err(StoreError::Timeout(patience)));
    let known = sources.control_plane.known_agents();
    let (tracker, me) = (sources.tracker.clone(), sources.me.replica.clone());
    if let Err(error) = &published {
        coverage.only_this_replica(format!(
            "{error}; this is what this replica knows by itself"
        ));
    }
    // Ten thousand agents take tens of milliseconds.
    let merging = tokio::task::spawn_blocking(move || {
        let (processes, others) = match published {
            Ok(entries) => (processes(&entries), DISCONNECTED),
            Err(_) => {
                let here = tracker.connected_here().into_iter();
                let replicas = vec![me];
                let here = here.map(|info| ConnectedProcess {
                    info,
                    replicas: replicas.clone(),
                });
                (here.collect(), UNKNOWN)
            }
        };
        let mut agents = merge(&known, &earlier, processes, others);
        problems.judge(&mut agents);
        agents
    });
    let agents = merging.await.unwrap_or_else(|_| {
        coverage.nothing("reading the agents failed, see the log".to_owned());
        Vec::new()
    });
    Snapshot {
        connected: agents.iter().filter(|it| it.state == CONNECTED).count(),
        degraded: agents.iter().filter(|it| it.health == DEGRADED).count(),
        unknown: agents.iter().filter(|it| it.state == UNKNOWN).count(),
        agents,
        coverage,
        taken,
    }
}

/// Agents that were connected at any time to any replica, where the control plane knows those only that were here
/// lately: each is pinned to its cluster, which the store keeps. Those of clusters that are not known are missing, and
/// none are told while the store is away.
async fn earlier(sources: &Sources, patience: Duration) -> Vec<AgentId> {
    let clusters = sources.clusters.as_ref();
    let Some(clusters) = clusters.filter(|_| !sources.control_plane.knows_all_agents()) else {
        return Vec::new();
    };
    let pins = tokio::time::timeout(patience, clusters.all()).await;
    let pins = pins.ok().and_then(Result::ok).unwrap_or_default();
    pins.into_keys().collect()
}

/// Those who are registered, were here earlier or are connected, each once, by their ids. `others` is the state of those
/// that are not.
fn merge(
    known: &[Arc<AgentInfo>],
    earlier: &[AgentId],
    connected: Vec<ConnectedProcess>,
    others: &str,
) -> Vec<Agent> {
    let nameless = |id: i64| Agent {
        id,
        state: others.to_owned(),
        ..Agent::default()
    };
    let mut all: BTreeMap<i64, Agent> = earlier.iter().map(|id| (id.0, nameless(id.0))).collect();
    all.extend(
        known
            .iter()
            .map(|info| (info.id.0, registered(info, others))),
    );
    let mut replicas: BTreeMap<i64, BTreeSet<ReplicaId>> = BTreeMap::new();
    for process in connected {
        let id = process.info.agent_id;
        let agent = all.entry(id).or_insert_with(|| nameless(id));
        if agent.project_id == 0 {
            agent.project_id = process.info.project_id;
        }
        replicas
            .entry(id)
            .or_default()
            .extend(process.replicas.iter().cloned());
        add(agent, process);
    }
    for (id, replicas) in replicas {
        if let Some(agent) = all.get_mut(&id) {
            agent.replicas = replicas.iter().map(ToString::to_string).collect();
        }
    }
    all.into_values().collect()
}

fn registered(info: &AgentInfo, state: &str) -> Agent {
    let mut agent = Agent {
        id: info.id.0,
        name: info.name.clone(),
        project_id: info.project_id,
        project: info.project_path.clone(),
        state: state.to_owned(),
        ..Agent::default()
    };
    if !info.project_path.is_empty() {
        let project = info.project_path.clone();
        agent.labels.insert("project".to_owned(), project);
    }
    agent
}

fn add(agent: &mut Agent, process: ConnectedProcess) {
    let told = told(process);
    CONNECTED.clone_into(&mut agent.state);
    agent.process_count += 1;
    // Texts of RFC 3339 in UTC are in the order of their times to the second.
    if agent.connected_since.is_empty() || told.connected_since < agent.connected_since {
        agent.connected_since.clone_from(&told.connected_since);
    }
    for (label, value) in [("version", &told.version), ("kubernetes", &told.kubernetes)] {
        if !value.is_empty() && !agent.labels.contains_key(label) {
            agent.labels.insert(label.to_owned(), value.clone());
        }
    }
    if agent.processes.len() < MAX_PROCESSES {
        agent.processes.push(told);
    }
}

fn told(process: ConnectedProcess) -> Process {
    let meta = process.info.agent_meta.unwrap_or_default();
    let at = process.info.connected_at.unwrap_or_default();
    let pod = match (&*meta.pod_namespace, &*meta.pod_name) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    Process {
        version: meta.version,
        pod,
        kubernetes: meta.kubernetes_version.unwrap_or_default().git_version,
        connected_since: Timestamp::from_second(at.seconds)
            .unwrap_or_default()
            .to_string(),
        replicas: process.replicas.iter().map(ToString::to_string).collect(),
    }
}

/// The first processes of an agent, for a list.
pub(crate) fn summary(agent: &Agent, processes: usize) -> Agent {
    let first = agent.processes.iter().take(processes);
    Agent {
        processes: first.cloned().collect(),
        process_count: agent.process_count.max(count(agent.processes.len())),
        id: agent.id,
        name: agent.name.clone(),
        project_id: agent.project_id,
        project: agent.project.clone(),
        state: agent.state.clone(),
        connected_since: agent.connected_since.clone(),
        labels: agent.labels.clone(),
        replicas: agent.replicas.clone(),
        absence: agent.absence.clone(),
        health: agent.health.clone(),
        problems: agent.problems.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proto::agent::{agent_tracker::ConnectedAgentInfo, entity::AgentMeta};

    use super::*;

    fn process(agent: i64, pod: &str, seconds: i64, replicas: &[&str]) -> ConnectedProcess {
        ConnectedProcess {
            info: ConnectedAgentInfo {
                agent_id: agent,
                agent_meta: Some(AgentMeta {
                    version: "v1".into(),
                    pod_namespace: "ns".into(),
                    pod_name: pod.into(),
                    ..AgentMeta::default()
                }),
                connected_at: Some(prost_types_timestamp(seconds)),
                ..ConnectedAgentInfo::default()
            },
            replicas: replicas.iter().map(|it| ReplicaId::new(it)).collect(),
        }
    }

    fn prost_types_timestamp(seconds: i64) -> ::prost_types::Timestamp {
        ::prost_types::Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn who_is_registered_and_who_is_connected_is_listed_once() {
        let known = [Arc::new(AgentInfo {
            id: AgentId(2),
            name: "prod".into(),
            project_id: 0,
            project_path: String::new(),
            default_branch: String::new(),
        })];

        let all = merge(
            &known,
            &[AgentId(2), AgentId(5)],
            vec![
                process(2, "a", 20, &["r2"]),
                process(2, "b", 10, &["r1", "r2"]),
                process(7, "c", 30, &["r1"]),
            ],
            DISCONNECTED,
        );

        let [two, five, seven] = &all[..] else {
            panic!("{all:?}")
        };
        assert_eq!((five.id, &*five.name, &*five.state), (5, "", DISCONNECTED));
        assert_eq!((two.id, &*two.name, &*two.state), (2, "prod", CONNECTED));
        assert_eq!(
            (two.process_count, &two.replicas[..]),
            (2, &["r1".to_owned(), "r2".to_owned()][..])
        );
        assert_eq!(two.connected_since, "1970-01-01T00:00:10Z");
        assert_eq!(two.labels["version"], "v1");
        assert_eq!((seven.id, &*seven.name), (7, ""));
        assert_eq!(seven.processes[0].pod, "ns/c");
    }

    #[test]
    fn an_agent_without_a_process_is_disconnected() {
        let known = [Arc::new(AgentInfo {
            id: AgentId(1),
            name: "a".into(),
            project_id: 5,
            project_path: "g/p".into(),
            default_branch: String::new(),
        })];

        let all = merge(&known, &[], Vec::new(), DISCONNECTED);

        assert_eq!(all[0].state, DISCONNECTED);
        assert_eq!(all[0].labels["project"], "g/p");
    }
}
