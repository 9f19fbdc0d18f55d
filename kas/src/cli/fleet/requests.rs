//! `kas request list`: what users ask for at this moment.

use admin::v1::{ListRequestsRequest, RequestInProgress};

use super::{
    PAGE,
    view::{Text, View},
};
use crate::cli::{CommandError, Output, server::ServerArgs};

/// Lists requests in progress.
pub(in crate::cli) async fn list(
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
    let requests = &told.requests;
    output.told(view, requests, |output, text| match text {
        Text::Names => output.names(requests.iter().map(|it| &it.id)),
        Text::Table | Text::Wide => {
            let rows: Vec<_> = requests.iter().map(row).collect();
            let head = [
                "REQUEST", "SINCE", "CALLER", "AGENT", "VERB", "PATH", "REPLICA",
            ];
            output.table(head, &rows)
        }
    })?;
    output.covered(told.coverage.as_ref())
}

fn row(it: &RequestInProgress) -> [String; 7] {
    let agent = it.agent.as_ref().map(|it| it.name.clone());
    [
        it.id.clone(),
        it.started_at.clone(),
        it.caller.clone(),
        agent.unwrap_or_default(),
        it.verb.clone(),
        it.path.clone(),
        it.replica.clone(),
    ]
}
