//! `AgentConfiguration.GetConfiguration`: sends an agent its configuration, and each change of it.

use std::sync::Arc;

use control_plane::{AgentConfigurationVersion, AgentInfo, Configuration, ControlPlane, Problem};
use proto::{
    agent::agent_configuration::rpc::{ConfigurationRequest, ConfigurationResponse},
    bounds::Bounds,
};
use tokio::sync::watch;
use tonic::Status;

use super::super::service::{Method, Responses, ServerStreaming, StreamCall};
use crate::tracker::{End, Tracker};

struct GetConfiguration {
    control_plane: Arc<dyn ControlPlane>,
    tracker: Arc<Tracker>,
    external_url: String,
}

/// Agents follow their configuration by it.
pub(super) fn get(
    control_plane: Arc<dyn ControlPlane>,
    tracker: Arc<Tracker>,
    external_url: String,
) -> Method {
    Method::server_streaming(GetConfiguration {
        control_plane,
        tracker,
        external_url,
    })
}

impl ServerStreaming for GetConfiguration {
    const PATH: &'static str =
        "/gitlab.agent.agent_configuration.rpc.AgentConfiguration/GetConfiguration";
    /// A commit's id, and the agent's own description.
    const BOUNDS: Bounds = Bounds::bytes(16 << 10);
    type Request = ConfigurationRequest;

    async fn serve(
        &self,
        call: &StreamCall,
        request: ConfigurationRequest,
        responses: &mut Responses,
    ) -> Result<(), Status> {
        let ConfigurationRequest {
            commit_id,
            agent_meta,
            skip_register,
        } = request;
        let agent = &call.identity.agent;
        let configuration = self.control_plane.configuration(agent.id, &commit_id);
        let configuration = configuration.ok_or_else(|| Status::not_found("agent not found"))?;
        responses.open()?;
        let meta = agent_meta.unwrap_or_default();
        let caller = &call.identity.caller;
        let mut connected =
            self.tracker
                .streaming_from(agent, &meta, skip_register, &caller.origin);
        tokio::select! {
            ended = self.send_changes(call, commit_id, configuration, responses) => ended,
            () = call.ends() => {
                let end = if caller.is_revoked() {
                    End::REVOKED
                } else {
                    End::RENEWED
                };
                if let Some(connected) = &mut connected {
                    connected.ends(end);
                }
                Ok(())
            }
        }
    }
}

impl GetConfiguration {
    /// Sends each version that the agent does not have.
    async fn send_changes(
        &self,
        call: &StreamCall,
        mut known: String,
        mut configuration: watch::Receiver<Configuration>,
        responses: &mut Responses,
    ) -> Result<(), Status> {
        let agent = &call.identity.agent;
        loop {
            let now = configuration.borrow_and_update().clone();
            if let Some(version) = now.newer_than(&known) {
                known.clone_from(&version.commit_id);
                responses.send(&self.response(agent, version)).await?;
                call.sent();
            }
            if let Some(problem) = now.problem {
                return Err(refusal(&problem));
            }
            tokio::select! {
                changed = configuration.changed() => {
                    changed.map_err(|_| Status::not_found("agent not found"))?;
                }
                gone = responses.gone() => return Err(gone),
            }
        }
    }

    fn response(
        &self,
        agent: &AgentInfo,
        version: &AgentConfigurationVersion,
    ) -> ConfigurationResponse {
        let mut configuration = version.configuration.clone();
        configuration.agent_id = agent.id.0;
        configuration.project_id = agent.project_id;
        configuration.project_path.clone_from(&agent.project_path);
        configuration
            .gitlab_external_url
            .clone_from(&self.external_url);
        ConfigurationResponse {
            configuration: Some(configuration),
            commit_id: version.commit_id.clone(),
        }
    }
}

/// In the words of GitLab's kas; the agent tries again after a while.
fn refusal(problem: &Problem) -> Status {
    match problem {
        Problem::Broken(why) => Status::failed_precondition(format!("Config: {why}")),
        Problem::NoBranch(why) => {
            Status::not_found(format!("Config: repository poll failed: {why}"))
        }
    }
}
