//! `AgentTracker`: who is connected, to whichever replica.

use agent_gateway::Tracker;
use std::{collections::HashMap, sync::Arc};

use cluster_state::{AgentId, PresenceQuery};
use proto::agent::agent_tracker::{
    ConnectedAgentInfo,
    rpc::{
        CountAgentsByAgentVersionsRequest, CountAgentsByAgentVersionsResponse,
        GetConnectedAgentsByAgentIDsRequest, GetConnectedAgentsByAgentIDsResponse,
        GetConnectedAgentsByProjectIDsRequest, GetConnectedAgentsByProjectIDsResponse,
        GetConnectedAgentsRequest, GetConnectedAgentsResponse, agent_tracker_server,
        get_connected_agents_request::Request as Asked,
    },
};
use tonic::{Request, Response, Status};

/// Agents or projects that one question may be about.
const AGENTS_PER_QUERY_MAX: usize = 10_000;

/// The service.
#[derive(Debug)]
pub(super) struct Connected(pub(super) Arc<Tracker>);

#[tonic::async_trait]
impl agent_tracker_server::AgentTracker for Connected {
    async fn get_connected_agents(
        &self,
        request: Request<GetConnectedAgentsRequest>,
    ) -> Result<Response<GetConnectedAgentsResponse>, Status> {
        let (wanted, call) = match request.into_inner().request {
            Some(Asked::AgentId(id)) => (by_agents(&[id]), "GetConnectionsByAgentId"),
            Some(Asked::ProjectId(id)) => {
                (PresenceQuery::Groups(vec![id]), "GetConnectionsByProjectId")
            }
            None => {
                let words = "invalid GetConnectedAgentsRequest.Request: value is required";
                return Err(Status::invalid_argument(words));
            }
        };
        let agents = self.ask(&wanted, call).await?;
        Ok(Response::new(GetConnectedAgentsResponse { agents }))
    }

    async fn get_connected_agents_by_project_i_ds(
        &self,
        request: Request<GetConnectedAgentsByProjectIDsRequest>,
    ) -> Result<Response<GetConnectedAgentsByProjectIDsResponse>, Status> {
        let ids = bounded(request.into_inner().project_ids)?;
        let wanted = PresenceQuery::Groups(ids);
        let agents = self.ask(&wanted, "GetConnectedAgentsByProjectIDs").await?;
        Ok(Response::new(GetConnectedAgentsByProjectIDsResponse {
            agents,
        }))
    }

    async fn get_connected_agents_by_agent_i_ds(
        &self,
        request: Request<GetConnectedAgentsByAgentIDsRequest>,
    ) -> Result<Response<GetConnectedAgentsByAgentIDsResponse>, Status> {
        let ids = bounded(request.into_inner().agent_ids)?;
        let wanted = by_agents(&ids);
        let agents = self.ask(&wanted, "GetConnectedAgentsByAgentIDs").await?;
        Ok(Response::new(GetConnectedAgentsByAgentIDsResponse {
            agents,
        }))
    }

    async fn get_connected_agentks_by_project_i_ds(
        &self,
        request: Request<GetConnectedAgentsByProjectIDsRequest>,
    ) -> Result<Response<GetConnectedAgentsByProjectIDsResponse>, Status> {
        self.get_connected_agents_by_project_i_ds(request).await
    }

    async fn get_connected_agentks_by_agent_i_ds(
        &self,
        request: Request<GetConnectedAgentsByAgentIDsRequest>,
    ) -> Result<Response<GetConnectedAgentsByAgentIDsResponse>, Status> {
        self.get_connected_agents_by_agent_i_ds(request).await
    }

    async fn count_agents_by_agent_versions(
        &self,
        _: Request<CountAgentsByAgentVersionsRequest>,
    ) -> Result<Response<CountAgentsByAgentVersionsResponse>, Status> {
        let agents = self
            .ask(&PresenceQuery::All, "CountAgentsByAgentVersions")
            .await?;
        Ok(Response::new(CountAgentsByAgentVersionsResponse {
            agent_versions: count_versions(agents),
        }))
    }
}

impl Connected {
    async fn ask(
        &self,
        wanted: &PresenceQuery,
        call: &str,
    ) -> Result<Vec<ConnectedAgentInfo>, Status> {
        self.0.connected(wanted).await.map_err(|error| {
            tracing::warn!(%error, call, "could not answer GitLab's query for connected agents");
            Status::unavailable(format!("{call}() failed"))
        })
    }
}

fn by_agents(ids: &[i64]) -> PresenceQuery {
    PresenceQuery::Agents(ids.iter().copied().map(AgentId).collect())
}

fn bounded(mut ids: Vec<i64>) -> Result<Vec<i64>, Status> {
    if ids.len() > AGENTS_PER_QUERY_MAX {
        let words = format!(
            "{} ids, more than the {AGENTS_PER_QUERY_MAX} allowed",
            ids.len()
        );
        return Err(Status::invalid_argument(words));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// An agent with processes of several versions counts once for each.
fn count_versions(agents: Vec<ConnectedAgentInfo>) -> HashMap<String, i64> {
    let version = |it: ConnectedAgentInfo| {
        let meta = it.agent_meta.unwrap_or_default();
        (it.agent_id, meta.version)
    };
    let mut pairs: Vec<_> = agents.into_iter().map(version).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let mut counts = HashMap::new();
    for (_, version) in pairs {
        *counts.entry(version).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use proto::agent::entity::AgentMeta;

    use super::*;

    #[test]
    fn agents_count_once_for_each_version_of_theirs() {
        let info = |agent_id, version: &str| ConnectedAgentInfo {
            agent_id,
            agent_meta: Some(AgentMeta {
                version: version.into(),
                ..AgentMeta::default()
            }),
            ..ConnectedAgentInfo::default()
        };

        let counts = count_versions(vec![
            info(1, "v1"),
            info(1, "v1"),
            info(1, "v2"),
            info(2, "v1"),
        ]);

        assert_eq!(counts, [("v1".into(), 2), ("v2".into(), 1)].into());
    }

    #[test]
    fn a_question_is_about_a_bounded_number() {
        assert_eq!(bounded(vec![2, 1, 2]).unwrap(), [1, 2]);
        assert!(bounded(vec![1; AGENTS_PER_QUERY_MAX + 1]).is_err());
    }
}
