//! `GitLabFlux.ReconcileProjects`: notifies agents of pushes to the projects that they name.

use std::{collections::HashSet, pin::pin, sync::Arc};

use control_plane::ControlPlane;
use proto::{
    agent::flux::rpc::{Project, ReconcileProjectsRequest, ReconcileProjectsResponse},
    bounds::{Bounds, Repeated},
};
use tonic::Status;

use super::super::{
    authenticate::CONTROL_PLANE_TIMEOUT,
    service::{Method, Responses, ServerStreaming, StreamCall},
};
use crate::flux::{Flux, PendingPushes};

struct ReconcileProjects {
    flux: Flux,
    control_plane: Arc<dyn ControlPlane>,
}

/// Agents follow pushes by it.
#[must_use]
pub fn reconcile_projects(flux: Flux, control_plane: Arc<dyn ControlPlane>) -> Method {
    Method::server_streaming(ReconcileProjects {
        flux,
        control_plane,
    })
}

impl ServerStreaming for ReconcileProjects {
    const PATH: &'static str = "/gitlab.agent.flux.rpc.GitLabFlux/ReconcileProjects";
    /// The projects that a cluster takes manifests from.
    const BOUNDS: Bounds = Bounds {
        bytes: 128 << 10,
        repeated: &[Repeated {
            path: &[1],
            most: 2000,
            what: "projects",
        }],
    };
    type Request = ReconcileProjectsRequest;

    async fn serve(
        &self,
        call: &StreamCall,
        request: ReconcileProjectsRequest,
        responses: &mut Responses,
    ) -> Result<(), Status> {
        let projects = projects(request)?;
        // Before the agent sees that its stream is open, so that it misses nothing.
        let pushes = self.flux.subscribe();
        responses.open()?;
        let pending = PendingPushes::default();
        let collecting = async {
            self.flux.collect(pushes, &projects, &pending).await;
            std::future::pending().await
        };
        tokio::select! {
            ended = self.notify(call, &pending, responses) => ended,
            ended = collecting => ended,
        }
    }
}

impl ReconcileProjects {
    /// Until the stream is to end and no push is pending.
    async fn notify(
        &self,
        call: &StreamCall,
        pending: &PendingPushes,
        responses: &mut Responses,
    ) -> Result<(), Status> {
        let mut ends = pin!(call.ends());
        loop {
            let push = tokio::select! {
                biased;
                gone = responses.gone() => return Err(gone),
                push = pending.next() => push,
                () = &mut ends => return Ok(()),
            };
            if !self.may_read(call, &push.project_path).await {
                continue;
            }
            let project = Project {
                id: push.project_path.to_string(),
            };
            let response = ReconcileProjectsResponse {
                project: Some(project),
            };
            responses.send(&response).await?;
            call.sent();
            self.flux.notified(&push);
        }
    }

    async fn may_read(&self, call: &StreamCall, path: &str) -> bool {
        let token = call.identity.caller.token();
        let asked = self.control_plane.may_read_project(token, path);
        let answer = tokio::time::timeout(CONTROL_PLANE_TIMEOUT, asked).await;
        let error: &dyn std::fmt::Display = match &answer {
            Ok(Ok(may)) => return *may,
            Ok(Err(error)) => error,
            Err(timeout) => timeout,
        };
        tracing::warn!(
            %error,
            project = path,
            "could not check the agent's access to the project; push notification dropped"
        );
        false
    }
}

fn projects(request: ReconcileProjectsRequest) -> Result<HashSet<String>, Status> {
    let projects: HashSet<_> = request.project.into_iter().map(|it| it.id).collect();
    if projects.contains("") {
        let words = "invalid ReconcileProjectsRequest: project.id must not be empty";
        return Err(Status::invalid_argument(words));
    }
    Ok(projects)
}
