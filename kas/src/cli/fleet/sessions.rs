//! What users have open: `kas session list`, `kas session kill`.

use admin::v1::{EndSessionRequest, ListSessionsRequest, Session};
use clap::Args;

use super::{
    PAGE,
    view::{Text, View},
};
use crate::cli::{CommandError, Output, ServerArgs};

/// Which sessions are wanted.
#[derive(Debug, Clone, Default, Args)]
pub struct SessionFilter {
    /// Only those for this agent, by its number or name
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Only those of this caller: alice, or user:alice
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only those of this kind: exec, attach, port-forward, logs, watch, watch-aggregator, graph or proxy
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
}

/// Lists what users have open, page by page.
pub(in crate::cli) async fn list(
    server: &ServerArgs,
    filter: SessionFilter,
    view: View,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    let mut asked = ListSessionsRequest {
        agent: filter.agent.unwrap_or_default(),
        user: filter.user.unwrap_or_default(),
        kind: filter.kind.unwrap_or_default(),
        page_size: PAGE,
        page_token: String::new(),
    };
    let mut sessions = Vec::new();
    let coverage = loop {
        let page = client.grpc().list_sessions(asked.clone()).await?;
        let page = page.into_inner();
        sessions.extend(page.sessions);
        if page.next_page_token.is_empty() {
            break page.coverage;
        }
        asked.page_token = page.next_page_token;
    };
    output.told(view, &sessions, |output, text| match text {
        Text::Names => output.names(sessions.iter().map(|it| &it.id)),
        Text::Table => {
            let rows: Vec<_> = sessions.iter().map(row).collect();
            let head = ["SESSION", "KIND", "SINCE", "CALLER", "AGENT", "PATH"];
            output.table(head, &rows)
        }
        Text::Wide => {
            let rows: Vec<_> = sessions.iter().map(wide).collect();
            let head = [
                "SESSION", "KIND", "SINCE", "CALLER", "AGENT", "PATH", "FROM", "REPLICA", "REQUEST",
            ];
            output.table(head, &rows)
        }
    })?;
    output.covered(coverage.as_ref())
}

/// Ends sessions, one after the other.
pub(in crate::cli) async fn kill(
    server: &ServerArgs,
    ids: Vec<String>,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    for id in ids {
        let ended = client.grpc().end_session(EndSessionRequest { id }).await?;
        let session = ended.into_inner().session.unwrap_or_default();
        let agent = session.agent.unwrap_or_default();
        output.result(&format!(
            "ended {} of {} at {} ({})",
            session.kind, session.caller, agent.name, session.id
        ))?;
    }
    Ok(())
}

fn row(it: &Session) -> [String; 6] {
    let agent = it.agent.as_ref().map(|it| it.name.clone());
    [
        it.id.clone(),
        it.kind.clone(),
        it.started_at.clone(),
        it.caller.clone(),
        agent.unwrap_or_default(),
        it.path.clone(),
    ]
}

fn wide(it: &Session) -> [String; 9] {
    let [id, kind, since, caller, agent, path] = row(it);
    let [from, replica, request] = [&it.remote_addr, &it.replica, &it.request_id].map(Clone::clone);
    [id, kind, since, caller, agent, path, from, replica, request]
}
