//! `GitLabFlux.ReconcileProjects`: notifies agents of pushes to the projects that they name.

use std::{collections::HashSet, pin::pin, sync::Arc};

use control_plane::ControlPlane;
use proto::{
    agent::flux::rpc::{Project, ReconcileProjectsRequest, ReconcileProjectsResponse},
    bounds::{Bounds, Repeated},
};
use tonic::Status;

use super::super::{
    authenticate::ASKING,
    service::{Method, Responses, ServerStreaming, StreamCall},
};
use crate::flux::{Flux, Waiting};

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
        let waiting = Waiting::default();
        let collecting = async {
            self.flux.collect(pushes, &projects, &waiting).await;
            std::future::pending().await
        };
        tokio::select! {
            ended = self.notify(call, &waiting, responses) => ended,
            ended = collecting => ended,
        }
    }
}

impl ReconcileProjects {
    /// Until the stream is to end and nothing waits.
    async fn notify(
        &self,
        call: &StreamCall,
        waiting: &Waiting,
        responses: &mut Responses,
    ) -> Result<(), Status> {
        let mut ends = pin!(call.ends());
        loop {
            let push = tokio::select! {
                biased;
                gone = responses.gone() => return Err(gone),
                push = waiting.next() => push,
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
            self.flux.told(&push);
        }
    }

    async fn may_read(&self, call: &StreamCall, path: &str) -> bool {
        let token = call.identity.caller.token();
        let asked = self.control_plane.may_read_project(token, path);
        match tokio::time::timeout(ASKING, asked).await {
            Ok(Ok(may)) => may,
            Ok(Err(error)) => {
                tracing::warn!(%error, project = path, "whether an agent may hear of a push is not known");
                false
            }
            Err(_) => {
                tracing::warn!(
                    project = path,
                    "whether an agent may hear of a push was not said in time"
                );
                false
            }
        }
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
