//! What a running server tells of its fleet: `kas agent list|show`, `kas explain`, `kas replica list`,
//! `kas request list`.

use admin::v1::{
    Agent, ConnectionRecord, Coverage, Explanation, GetAgentRequest, ListAgentsRequest,
    ListRecordsRequest, ListReplicasRequest, ListRequestsRequest, Process, ReplicaLogLevel,
    SetLogLevelRequest,
};
use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use runtime::yaml;
use serde::Serialize;

use super::{CommandError, Output, output::Format, server::ServerArgs};

/// Agents of one question.
const PAGE: u32 = 500;

/// How what a server tells is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// Aligned columns
    #[default]
    Table,
    /// More columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Names only, one a line
    Name,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Every decision
    Debug,
    /// What a user would notice
    Info,
    /// What needs a look tomorrow
    Warn,
    /// What needs a look now
    Error,
}

/// Which agents of a server are wanted.
#[derive(Debug, Clone, Default, Args)]
pub struct FleetFilter {
    /// Only agents in this state: connected or disconnected (of a running server)
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only agents with this in their names (of a running server)
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Only agents with these labels: KEY=VALUE or KEY, with commas between (of a running server)
    #[arg(short = 'l', long, value_name = "LABELS")]
    label: Option<String>,
}

impl View {
    /// The nearest of what files are printed in.
    pub(super) fn of_file(self) -> Format {
        match self {
            Self::Json | Self::Yaml => Format::Json,
            Self::Table | Self::Wide | Self::Name => Format::Table,
        }
    }
}

impl LogLevel {
    fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl FleetFilter {
    pub(super) fn is_given(&self) -> bool {
        self.state.is_some() || self.name.is_some() || self.label.is_some()
    }
}

/// Lists the agents of a server, page by page.
pub(super) async fn list(
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
    match view {
        View::Json => output.json(&agents)?,
        View::Yaml => output.yaml(&agents)?,
        View::Name => names(agents.iter().map(|it| &it.name), output)?,
        View::Table => {
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
            output.table(head, &rows)?;
        }
        View::Wide => {
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
            output.table(head, &rows)?;
        }
    }
    covered(coverage.as_ref(), output)
}

/// Shows an agent of a server.
pub(super) async fn show(
    server: &ServerArgs,
    agent: String,
    view: View,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    let asked = GetAgentRequest { agent };
    let told = client.grpc().get_agent(asked).await?.into_inner();
    let agent = told.agent.unwrap_or_default();
    match view {
        View::Json => output.json(&agent)?,
        View::Yaml => output.yaml(&agent)?,
        View::Name => output.result(&agent.name)?,
        View::Table | View::Wide => {
            let seen = seen(told.last_seen_seconds);
            let Agent {
                id,
                name,
                project,
                state,
                ..
            } = &agent;
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
            output.table(head, &rows)?;
        }
    }
    covered(told.coverage.as_ref(), output)
}

/// Says where a request for an agent would go.
pub(super) async fn explain(
    server: &ServerArgs,
    agent: String,
    view: View,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    let asked = GetAgentRequest { agent };
    let told = client.grpc().explain_agent(asked).await?.into_inner();
    match view {
        View::Json => return output.json(&told),
        View::Yaml => return output.yaml(&told),
        View::Table | View::Wide | View::Name => {}
    }
    let Explanation {
        agent,
        verdict,
        candidates,
        last_seen_seconds,
        authoritative,
        coverage,
        last_refusal,
        ..
    } = told;
    let agent = agent.unwrap_or_default();
    let refused = match last_refusal {
        None => "nothing that is kept".to_owned(),
        Some(it) => format!("{} from {}: {}", it.at, it.remote_addr, it.reason),
    };
    let known = if authoritative {
        "all of them"
    } else {
        "perhaps not all: the store was unavailable lately"
    };
    output.result(&format!(
        "agent:           {} (id {})\na request now:   {verdict}\nlast seen:       {}\nholders known:   {known}\nlast refused:    {refused}\n",
        agent.name,
        agent.id,
        seen(last_seen_seconds)
    ))?;
    let rows: Vec<[String; 5]> = (1..)
        .zip(candidates)
        .map(|(place, it): (usize, _)| {
            let (idle, alive) = it.tunnels.map_or((String::new(), String::new()), |it| {
                (it.idle.to_string(), it.alive.to_string())
            });
            let why = match &*it.problem {
                "" => it.why,
                problem => format!("{}; it does not tell: {problem}", it.why),
            };
            [place.to_string(), it.replica, idle, alive, why]
        })
        .collect();
    output.table(["ASKED", "REPLICA", "IDLE", "TUNNELS", "WHY"], &rows)?;
    covered(coverage.as_ref(), output)
}

/// Lists what happened to an agent's connections.
pub(super) async fn records(
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
    let records = told.records;
    match view {
        View::Json => output.json(&records)?,
        View::Yaml => output.yaml(&records)?,
        View::Table | View::Wide | View::Name => {
            let row = |it: ConnectionRecord| {
                [
                    it.at,
                    it.event,
                    it.reason,
                    it.instance,
                    it.version,
                    it.remote_addr,
                    it.replica,
                ]
            };
            let rows: Vec<_> = records.into_iter().map(row).collect();
            let head = [
                "AT", "EVENT", "REASON", "INSTANCE", "VERSION", "FROM", "REPLICA",
            ];
            output.table(head, &rows)?;
        }
    }
    covered(told.coverage.as_ref(), output)
}

/// Lists the replicas.
pub(super) async fn replicas(
    server: &ServerArgs,
    view: View,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    let told = client
        .grpc()
        .list_replicas(ListReplicasRequest {})
        .await?
        .into_inner();
    let replicas = told.replicas;
    match view {
        View::Json => output.json(&replicas)?,
        View::Yaml => output.yaml(&replicas)?,
        View::Name => names(replicas.iter().map(|it| &it.id), output)?,
        View::Table | View::Wide => {
            let rows: Vec<[String; 9]> = replicas
                .into_iter()
                .map(|it| {
                    let details = it.details.unwrap_or_default();
                    let tunnels = details.tunnels.unwrap_or_default();
                    [
                        it.id,
                        it.state,
                        it.version,
                        details.started_at,
                        details.agents.to_string(),
                        format!("{}/{}", tunnels.idle, tunnels.alive),
                        details.requests_in_progress.to_string(),
                        details.store,
                        it.problem,
                    ]
                })
                .collect();
            let head = [
                "REPLICA",
                "STATE",
                "VERSION",
                "SINCE",
                "AGENTS",
                "TUNNELS IDLE/ALL",
                "REQUESTS",
                "STORE",
                "PROBLEM",
            ];
            output.table(head, &rows)?;
        }
    }
    covered(told.coverage.as_ref(), output)
}

/// Lists requests in progress.
pub(super) async fn requests(
    server: &ServerArgs,
    view: View,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    let asked = ListRequestsRequest {
        agent_id: 0,
        limit: PAGE,
    };
    let told = client.grpc().list_requests(asked).await?.into_inner();
    let requests = told.requests;
    match view {
        View::Json => output.json(&requests)?,
        View::Yaml => output.yaml(&requests)?,
        View::Name => names(requests.iter().map(|it| &it.id), output)?,
        View::Table | View::Wide => {
            let rows: Vec<[String; 7]> = requests
                .into_iter()
                .map(|it| {
                    let agent = it.agent.unwrap_or_default();
                    [
                        it.id,
                        it.started_at,
                        it.caller,
                        agent.name,
                        it.verb,
                        it.path,
                        it.replica,
                    ]
                })
                .collect();
            let head = [
                "REQUEST", "SINCE", "CALLER", "AGENT", "VERB", "PATH", "REPLICA",
            ];
            output.table(head, &rows)?;
        }
    }
    covered(told.coverage.as_ref(), output)
}

/// Changes how much replicas log.
pub(super) async fn set_log_level(
    server: &ServerArgs,
    level: LogLevel,
    replica: Option<String>,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    let asked = SetLogLevelRequest {
        level: level.as_str().to_owned(),
        replica: replica.unwrap_or_default(),
    };
    let told = client.grpc().set_log_level(asked).await?.into_inner();
    let row = |it: ReplicaLogLevel| [it.replica, it.level, it.problem];
    let rows: Vec<_> = told.replicas.into_iter().map(row).collect();
    output.table(["REPLICA", "LEVEL", "PROBLEM"], &rows)
}

fn names<'a>(
    names: impl Iterator<Item = &'a String>,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let lines: Vec<&str> = names.map(String::as_str).collect();
    if lines.is_empty() {
        return Ok(());
    }
    output.result(&lines.join("\n"))
}

fn row(agent: &Agent) -> [String; 7] {
    let label = |name: &str| agent.labels.get(name).cloned().unwrap_or_default();
    [
        agent.id.to_string(),
        agent.name.clone(),
        agent.state.clone(),
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
            agent.state.clone(),
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

/// Says what an answer does not cover.
fn covered(coverage: Option<&Coverage>, output: &mut Output<'_>) -> Result<(), CommandError> {
    match coverage {
        Some(Coverage {
            complete: false,
            problem,
            ..
        }) => output.hint(&format!("This is not complete: {problem}.")),
        _ => Ok(()),
    }
}

impl Output<'_> {
    fn yaml(&mut self, value: &impl Serialize) -> Result<(), CommandError> {
        let value =
            serde_json::to_value(value).map_err(|error| CommandError::Output(error.into()))?;
        self.result(&yaml::write(&value))
    }
}
