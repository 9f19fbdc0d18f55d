//! `kas replica list` and `kas log-level`: the replicas of a server.

use admin::v1::{ListReplicasRequest, ReplicaEntry, ReplicaLogLevel, SetLogLevelRequest};
use clap::ValueEnum;

use super::view::{Text, View};
use crate::cli::{CommandError, Output, server::ServerArgs};

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

/// Lists the replicas.
pub(in crate::cli) async fn list(
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
    let replicas = &told.replicas;
    output.told(view, replicas, |output, text| match text {
        Text::Names => output.names(replicas.iter().map(|it| &it.id)),
        Text::Table | Text::Wide => {
            let rows: Vec<_> = replicas.iter().map(row).collect();
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
            output.table(head, &rows)
        }
    })?;
    output.covered(told.coverage.as_ref())
}

/// Changes how much replicas log.
pub(in crate::cli) async fn set_log_level(
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

fn row(it: &ReplicaEntry) -> [String; 9] {
    let details = it.details.clone().unwrap_or_default();
    let tunnels = details.tunnels.unwrap_or_default();
    [
        it.id.clone(),
        it.state.clone(),
        it.version.clone(),
        details.started_at,
        details.agents.to_string(),
        format!("{}/{}", tunnels.idle, tunnels.alive),
        details.requests_in_progress.to_string(),
        details.store,
        it.problem.clone(),
    ]
}
