//! What a server told, as rows of cells.

use admin::v1::{
    AgentReference, FleetStatus, ListAgentsResponse, ListReplicasResponse, ListRequestsResponse,
    ListSessionsResponse,
};
use jiff::Timestamp;

use super::columns::Column;

const AGENTS: [Column; 8] = [
    Column::new("ID", 0, 12),
    Column::rest("NAME", 0),
    Column::new("STATE", 0, 14),
    Column::new("PODS", 2, 6),
    Column::new("CONNECTED", 1, 10),
    Column::new("VERSION", 3, 26),
    Column::new("KUBERNETES", 4, 26),
    Column::new("REPLICAS", 5, 40),
];
const REPLICAS: [Column; 9] = [
    Column::new("REPLICA", 0, 40),
    Column::new("STATE", 0, 12),
    Column::new("AGENTS", 2, 10),
    Column::new("IDLE/TUNNELS", 3, 16),
    Column::new("REQUESTS", 2, 10),
    Column::new("STORE", 4, 12),
    Column::new("UP", 5, 6),
    Column::new("VERSION", 6, 24),
    Column::rest("PROBLEM", 1),
];
const REQUESTS: [Column; 6] = [
    Column::new("AGE", 0, 6),
    Column::new("CALLER", 1, 30),
    Column::new("AGENT", 1, 30),
    Column::new("VERB", 0, 12),
    Column::rest("PATH", 0),
    Column::new("REPLICA", 2, 30),
];
const SESSIONS: [Column; 8] = [
    Column::new("AGE", 0, 6),
    Column::new("CALLER", 0, 30),
    Column::new("KIND", 0, 16),
    Column::new("AGENT", 1, 30),
    Column::rest("PATH", 2),
    Column::new("FROM", 4, 24),
    Column::new("REPLICA", 5, 30),
    Column::new("ID", 3, 40),
];

/// A list, as it is shown.
pub(super) struct Shown {
    pub(super) columns: &'static [Column],
    /// Its cells, and whether somebody should look.
    pub(super) rows: Vec<(Vec<String>, bool)>,
    /// How many there are, in the list or not.
    pub(super) total: u32,
    /// In place of no rows.
    pub(super) none: &'static str,
}

/// The agents.
pub(super) fn agents(list: &ListAgentsResponse, now: Option<Timestamp>) -> Shown {
    Shown {
        columns: &AGENTS,
        rows: list.agents.iter().map(|it| agent(it, now)).collect(),
        total: list.total,
        none: "no agents are registered or connected",
    }
}

/// The replicas.
pub(super) fn replicas(list: &ListReplicasResponse, now: Option<Timestamp>) -> Shown {
    Shown {
        columns: &REPLICAS,
        rows: list.replicas.iter().map(|it| replica(it, now)).collect(),
        total: u32::try_from(list.replicas.len()).unwrap_or(u32::MAX),
        none: "no replica is known",
    }
}

/// The requests in progress.
pub(super) fn requests(list: &ListRequestsResponse, now: Option<Timestamp>) -> Shown {
    Shown {
        columns: &REQUESTS,
        rows: list.requests.iter().map(|it| request(it, now)).collect(),
        total: list.total,
        none: "no requests are in progress",
    }
}

/// What users have open.
pub(super) fn sessions(list: &ListSessionsResponse, now: Option<Timestamp>) -> Shown {
    Shown {
        columns: &SESSIONS,
        rows: list.sessions.iter().map(|it| session(it, now)).collect(),
        total: list.total,
        none: "nobody has anything open",
    }
}

/// The server's time, by its own clock: this machine's may be another.
pub(super) fn as_of(status: &FleetStatus) -> Option<Timestamp> {
    status.coverage.as_ref()?.as_of.parse().ok()
}

/// How long ago that was, as Kubernetes tells ages; empty where that is not known.
fn age(since: &str, now: Option<Timestamp>) -> String {
    let since: Option<Timestamp> = since.parse().ok();
    let Some((since, now)) = since.zip(now) else {
        return String::new();
    };
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn agent(it: &admin::v1::Agent, now: Option<Timestamp>) -> (Vec<String>, bool) {
    let label = |name: &str| it.labels.get(name).cloned().unwrap_or_default();
    let is_degraded = !it.problems.is_empty();
    let state = if is_degraded { &it.health } else { &it.state };
    let cells = vec![
        it.id.to_string(),
        it.name.clone(),
        state.clone(),
        it.process_count.to_string(),
        age(&it.connected_since, now),
        label("version"),
        label("kubernetes"),
        it.replicas.join(","),
    ];
    (cells, it.state != "connected" || is_degraded)
}

fn replica(it: &admin::v1::ReplicaEntry, now: Option<Timestamp>) -> (Vec<String>, bool) {
    let details = it.details.as_ref();
    let told =
        |tell: &dyn Fn(&admin::v1::ReplicaDetails) -> String| details.map(tell).unwrap_or_default();
    let cells = vec![
        it.id.clone(),
        it.state.clone(),
        told(&|it| it.agents.to_string()),
        told(&|it| {
            let tunnels = it.tunnels.unwrap_or_default();
            format!("{}/{}", tunnels.idle, tunnels.alive)
        }),
        told(&|it| it.requests_in_progress.to_string()),
        told(&|it| it.store.clone()),
        told(&|it| age(&it.started_at, now)),
        it.version.clone(),
        it.problem.clone(),
    ];
    (cells, it.state != "serving" || details.is_none())
}

/// The name, or the number where there is none.
fn name(agent: Option<&AgentReference>) -> String {
    match agent {
        Some(agent) if agent.name.is_empty() => agent.id.to_string(),
        Some(agent) => agent.name.clone(),
        None => String::new(),
    }
}

fn request(it: &admin::v1::RequestInProgress, now: Option<Timestamp>) -> (Vec<String>, bool) {
    let cells = vec![
        age(&it.started_at, now),
        it.caller.clone(),
        name(it.agent.as_ref()),
        it.verb.clone(),
        it.path.clone(),
        it.replica.clone(),
    ];
    (cells, false)
}

fn session(it: &admin::v1::Session, now: Option<Timestamp>) -> (Vec<String>, bool) {
    let cells = vec![
        age(&it.started_at, now),
        it.caller.clone(),
        it.kind.clone(),
        name(it.agent.as_ref()),
        it.path.clone(),
        it.remote_addr.clone(),
        it.replica.clone(),
        it.id.clone(),
    ];
    (cells, false)
}
