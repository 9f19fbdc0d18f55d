//! `kas agent list|show|records` and `kas explain`: the agents of a server.

use admin::v1::{
    Agent, Candidate, ConnectionRecord, Explanation, GetAgentRequest, ListAgentsRequest,
    ListRecordsRequest, Process,
};
use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::{
    PAGE,
    view::{Text, View},
};
use crate::cli::{CommandError, Output, server::ServerArgs};

/// The health of an agent with which nothing is wrong.
const HEALTHY: &str = "healthy";

/// Which agents of a server are wanted.
#[derive(Debug, Clone, Default, Args)]
pub struct FleetFilter {
    /// Only agents in this state: connected, healthy, degraded, disconnected or unknown (of a running server)
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only agents with this in their names (of a running server)
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Only agents with these labels: KEY=VALUE or KEY, with commas between (of a running server)
    #[arg(short = 'l', long, value_name = "LABELS")]
    label: Option<String>,
}

impl FleetFilter {
    pub(in crate::cli) fn is_given(&self) -> bool {
        self.state.is_some() || self.name.is_some() || self.label.is_some()
    }
}

/// Lists the agents of a server, page by page.
pub(in crate::cli) async fn list(
    server: &ServerArgs,
    filter: FleetFilter,
    view: View,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    let mut asked = ListAgentsRequest {
        state: filter.state.unwrap_or_default(),
        name: filter.name.unwrap_or_default(),
        label: filter.label.unwrap_or_default(),
        page_size: PAGE,
        page_token: String::new(),
    };
    let mut agents = Vec::new();
    let coverage = loop {
        let page = client.grpc().list_agents(asked.clone()).await?.into_inner();
        agents.extend(page.agents);
        if page.next_page_token.is_empty() {
            break page.coverage;
        }
        asked.page_token = page.next_page_token;
    };
    output.told(view, &agents, |output, text| match text {
        Text::Names => output.names(agents.iter().map(|it| &it.name)),
        Text::Table => {
            let rows: Vec<_> = agents.iter().map(row).collect();
            let head = [
                "ID",
                "NAME",
                "STATE",
                "VERSION",
                "KUBERNETES",
                "PODS",
                "CONNECTED SINCE",
            ];
            output.table(head, &rows)
        }
        Text::Wide => {
            let rows: Vec<_> = agents.iter().flat_map(wide).collect();
            let head = [
                "ID",
                "NAME",
                "STATE",
                "VERSION",
                "KUBERNETES",
                "POD",
                "CONNECTED SINCE",
                "REPLICAS",
                "PROJECT",
            ];
            output.table(head, &rows)
        }
    })?;
    output.covered(coverage.as_ref())
}

/// Shows an agent of a server.
pub(in crate::cli) async fn show(
    server: &ServerArgs,
    agent: String,
    view: View,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    let asked = GetAgentRequest { agent };
    let told = client.grpc().get_agent(asked).await?.into_inner();
    let agent = told.agent.unwrap_or_default();
    output.told(view, &agent, |output, text| match text {
        Text::Names => output.result(&agent.name),
        Text::Table | Text::Wide => {
            let seen = seen(told.last_seen_seconds);
            let Agent {
                id, name, project, ..
            } = &agent;
            let state = state(&agent);
            output.result(&format!(
                "id:         {id}\nname:       {name}\nproject:    {project}\nstate:      {state}\nlast seen:  {seen}\n\
                 cluster:    {}\n",
                told.cluster
            ))?;
            let rows: Vec<_> = agent.processes.iter().map(process).collect();
            let head = [
                "POD",
                "VERSION",
                "KUBERNETES",
                "CONNECTED SINCE",
                "REPLICAS",
            ];
            output.table(head, &rows)
        }
    })?;
    output.covered(told.coverage.as_ref())
}

/// Says where a request for an agent would go.
pub(in crate::cli) async fn explain(
    server: &ServerArgs,
    agent: String,
    view: View,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    let asked = GetAgentRequest { agent };
    let told = client.grpc().explain_agent(asked).await?.into_inner();
    output.told(view, &told, |output, _| explained(&told, output))
}

/// Lists what happened to an agent's connections.
pub(in crate::cli) async fn records(
    server: &ServerArgs,
    agent: String,
    view: View,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    let asked = ListRecordsRequest {
        agent,
        ..ListRecordsRequest::default()
    };
    let told = client.grpc().list_records(asked).await?.into_inner();
    let records = &told.records;
    output.told(view, records, |output, _| {
        let rows: Vec<_> = records.iter().map(record).collect();
        let head = [
            "AT", "EVENT", "REASON", "INSTANCE", "VERSION", "FROM", "REPLICA",
        ];
        output.table(head, &rows)
    })?;
    output.covered(told.coverage.as_ref())
}

fn explained(told: &Explanation, output: &mut Output<'_>) -> Result<(), CommandError> {
    let agent = told.agent.clone().unwrap_or_default();
    let refused = match &told.last_refusal {
        None => "nothing that is kept".to_owned(),
        Some(it) => format!("{} from {}: {}", it.at, it.remote_addr, it.reason),
    };
    let known = if told.authoritative {
        "all of them"
    } else {
        "perhaps not all: the store was unavailable lately"
    };
    let problems = match &told.problems[..] {
        [] => String::new(),
        problems => format!("wrong with it:   {}\n", problems.join("; ")),
    };
    output.result(&format!(
        "agent:           {} (id {})\n\
         request now:     {}\n\
         last seen:       {}\n\
         holders known:   {known}\n\
         last refused:    {refused}\n\
         {problems}",
        agent.name,
        agent.id,
        told.verdict,
        seen(told.last_seen_seconds)
    ))?;
    let rows: Vec<_> = (1..).zip(&told.candidates).map(candidate).collect();
    output.table(["ASKED", "REPLICA", "IDLE", "TUNNELS", "WHY"], &rows)?;
    output.covered(told.coverage.as_ref())
}

fn candidate((place, it): (usize, &Candidate)) -> [String; 5] {
    let (idle, alive) = it.tunnels.map_or((String::new(), String::new()), |it| {
        (it.idle.to_string(), it.alive.to_string())
    });
    let why = match &*it.problem {
        "" => it.why.clone(),
        problem => format!("{}; it does not tell: {problem}", it.why),
    };
    [place.to_string(), it.replica.clone(), idle, alive, why]
}

fn record(it: &ConnectionRecord) -> [String; 7] {
    [
        it.at.clone(),
        it.event.clone(),
        it.reason.clone(),
        it.instance.clone(),
        it.version.clone(),
        it.remote_addr.clone(),
        it.replica.clone(),
    ]
}

/// The state of an agent, and why it is not connected, or what is wrong with it.
fn state(agent: &Agent) -> String {
    let Some(absence) = &agent.absence else {
        let problems = agent.problems.join("; ");
        return match &*agent.health {
            "" | HEALTHY => agent.state.clone(),
            health => format!("{} ({health}: {problems})", agent.state),
        };
    };
    let since = match (&*absence.state, &*absence.at) {
        (_, "") => String::new(),
        ("refused", at) => format!(" at {at}"),
        (_, at) => format!(" since {at}"),
    };
    let why = match &*absence.reason {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!("{} ({}{since}{why})", agent.state, absence.state)
}

/// The same in two or three words.
fn brief_state(agent: &Agent) -> String {
    let more = match &agent.absence {
        Some(absence) => &absence.state,
        None => &agent.health,
    };
    match &**more {
        "" | HEALTHY => agent.state.clone(),
        more => format!("{} ({more})", agent.state),
    }
}

fn row(agent: &Agent) -> [String; 7] {
    let label = |name: &str| agent.labels.get(name).cloned().unwrap_or_default();
    [
        agent.id.to_string(),
        agent.name.clone(),
        brief_state(agent),
        label("version"),
        label("kubernetes"),
        agent.process_count.to_string(),
        agent.connected_since.clone(),
    ]
}

/// One line per process, or a single one for an agent without any.
fn wide(agent: &Agent) -> Vec<[String; 9]> {
    let line = |it: &Process| {
        [
            agent.id.to_string(),
            agent.name.clone(),
            state(agent),
            it.version.clone(),
            it.kubernetes.clone(),
            it.pod.clone(),
            it.connected_since.clone(),
            it.replicas.join(","),
            agent.project.clone(),
        ]
    };
    if agent.processes.is_empty() {
        return vec![line(&Process::default())];
    }
    agent.processes.iter().map(line).collect()
}

fn process(it: &Process) -> [String; 5] {
    [
        it.pod.clone(),
        it.version.clone(),
        it.kubernetes.clone(),
        it.connected_since.clone(),
        it.replicas.join(","),
    ]
}

/// When somebody was seen last, for people.
fn seen(seconds: Option<u64>) -> String {
    match seconds {
        None => "never, as far as is known".to_owned(),
        Some(0) => "connected now".to_owned(),
        Some(seconds) => {
            let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            match Timestamp::now().checked_sub(ago) {
                Ok(at) => format!(
                    "{} s ago, at {}",
                    seconds,
                    at.strftime("%Y-%m-%dT%H:%M:%SZ")
                ),
                Err(_) => format!("{seconds} s ago"),
            }
        }
    }
}
