//! `AgentConfiguration.GetConfiguration`: sends on change, for as long as the
//! stream lasts. Parked in the connection's task, so it is written without
//! tonic's buffers.

use std::{future::poll_fn, sync::Arc};

use http::Request;
use proto::{
    agent::agent_configuration::rpc::{ConfigurationRequest, ConfigurationResponse},
    bounds::Bounds,
    frame::Frame,
};
use runtime::grpc::{SendResponse, SendStream, receive, send_frame};
use tokio::sync::watch;
use tonic::Status;

use super::{AgentApi, caller::Known, idle::SILENCE};
use crate::control_plane::{AgentConfigurationVersion, AgentInfo, Configuration, Problem};

/// A commit's id, and what an agent says of itself.
const REQUEST: Bounds = Bounds::bytes(16 << 10);

/// Serves one stream until it or the connection ends, or the caller leaves.
pub(super) async fn serve(
    api: Arc<AgentApi>,
    known: Known,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
    native: bool,
) {
    let (head, mut stream) = request.into_parts();
    let asked = receive::<ConfigurationRequest>(&head.headers, &mut stream, &REQUEST).await;
    let asked = match asked {
        Ok(asked) => asked,
        Err(status) => return refuse(&api, respond, &status),
    };
    let Known { caller, agent } = known;
    let configuration = api.control_plane.configuration(agent.id, &asked.commit_id);
    let Some(configuration) = configuration else {
        return refuse(&api, respond, &Status::not_found("agent not found"));
    };
    let mut respond = respond;
    let Ok(mut send) = respond.send_response(runtime::grpc::response_headers(), false) else {
        return;
    };
    let meta = asked.agent_meta.unwrap_or_default();
    let _here = api.tracker.streaming(&agent, &meta, asked.skip_register);
    let external_url = &api.settings.external_url;
    let status = tokio::select! {
        status = send_changes(&mut send, &agent, external_url, asked.commit_id, configuration) => status,
        () = caller.leaving.cancelled() => Some(Status::ok("")),
        // The agent asks again at once, and names what it has.
        () = tokio::time::sleep(SILENCE), if native => Some(Status::ok("")),
    };
    if let Some(status) = status {
        // A stream that is gone needs no end.
        let _ = send.send_trailers(runtime::grpc::trailers(&status));
    }
}

/// Sends each version that the agent does not have. Ends with a status for the
/// agent, or with none when the stream is gone.
async fn send_changes(
    send: &mut SendStream,
    agent: &AgentInfo,
    external_url: &str,
    mut known: String,
    mut configuration: watch::Receiver<Configuration>,
) -> Option<Status> {
    loop {
        let now = configuration.borrow_and_update().clone();
        if let Some(version) = now.newer_than(&known) {
            known.clone_from(&version.commit_id);
            let response = response(agent, external_url, version);
            send_frame(send, Frame::message(&response)).await.ok()?;
        }
        if let Some(problem) = now.problem {
            return Some(refusal(&problem));
        }
        tokio::select! {
            changed = configuration.changed() => if changed.is_err() {
                return Some(Status::not_found("agent not found"));
            },
            _ = poll_fn(|cx| send.poll_reset(cx)) => return None,
        }
    }
}

fn response(
    agent: &AgentInfo,
    external_url: &str,
    version: &AgentConfigurationVersion,
) -> ConfigurationResponse {
    let mut configuration = version.configuration.clone();
    configuration.agent_id = agent.id.0;
    configuration.project_id = agent.project_id;
    configuration.project_path.clone_from(&agent.project_path);
    configuration.gitlab_external_url = external_url.to_owned();
    ConfigurationResponse {
        configuration: Some(configuration),
        commit_id: version.commit_id.clone(),
    }
}

/// As GitLab's kas says it; the agent tries again after a while.
fn refusal(problem: &Problem) -> Status {
    match problem {
        Problem::Broken(why) => Status::failed_precondition(format!("Config: {why}")),
        Problem::NoBranch(why) => {
            Status::not_found(format!("Config: repository poll failed: {why}"))
        }
    }
}

fn refuse(api: &AgentApi, respond: SendResponse, status: &Status) {
    api.refuse(respond, status, "GetConfiguration");
}
