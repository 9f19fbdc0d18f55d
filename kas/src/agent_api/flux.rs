//! `GitLabFlux.ReconcileProjects`: tells of pushes to the projects asked for, for
//! as long as the stream lasts.

use std::{collections::HashSet, future::poll_fn, sync::Arc};

use http::Request;
use proto::{
    agent::flux::rpc::{Project, ReconcileProjectsRequest, ReconcileProjectsResponse},
    bounds::{Bounds, Repeated},
    frame::Frame,
};
use runtime::grpc::{SendResponse, SendStream, receive, send_frame};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{AgentApi, authenticate::ASKING, caller::Known, idle::SILENCE};
use crate::{
    control_plane::{ControlPlane, Token},
    flux::{Flux, Waiting},
};

/// The projects that an agent's cluster takes manifests from.
const REQUEST: Bounds = Bounds {
    bytes: 128 << 10,
    repeated: &[Repeated {
        path: &[1],
        most: 2000,
        what: "projects",
    }],
};

/// Serves one stream until it or the connection ends, or the caller leaves.
pub(super) async fn serve(
    api: Arc<AgentApi>,
    known: Known,
    flux: Flux,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse,
    native: bool,
) {
    let projects = match begin(request).await {
        Ok(projects) => projects,
        Err(status) => return api.refuse(respond, &status, "ReconcileProjects"),
    };
    let caller = known.caller;
    // Before the agent hears that its stream is there, so that it misses nothing.
    let events = flux.subscribe();
    let Ok(mut send) = respond.send_response(runtime::grpc::response_headers(), false) else {
        return;
    };
    let waiting = Waiting::default();
    let over = caller.leaving.child_token();
    let collecting = async {
        tokio::select! {
            () = flux.collect(events, &projects, &waiting) => {}
            // The agent asks again at once.
            () = tokio::time::sleep(SILENCE), if native => {}
        }
        over.cancel();
        std::future::pending().await
    };
    let teller = Teller {
        control_plane: &*api.control_plane,
        flux: &flux,
        token: caller.token(),
        waiting: &waiting,
    };
    let status = tokio::select! {
        status = teller.tell(&mut send, &over) => status,
        () = collecting => None,
    };
    if let Some(status) = status {
        // A stream that is gone needs no end.
        let _ = send.send_trailers(runtime::grpc::trailers(&status));
    }
}

async fn begin(request: Request<h2::RecvStream>) -> Result<HashSet<String>, Status> {
    let (head, mut stream) = request.into_parts();
    let asked: ReconcileProjectsRequest = receive(&head.headers, &mut stream, &REQUEST).await?;
    let projects: HashSet<_> = asked.project.into_iter().map(|it| it.id).collect();
    if projects.contains("") {
        let words = "invalid ReconcileProjectsRequest: project.id must not be empty";
        return Err(Status::invalid_argument(words));
    }
    Ok(projects)
}

/// Tells an agent of what waits for it, if it may know.
struct Teller<'a> {
    control_plane: &'a dyn ControlPlane,
    flux: &'a Flux,
    token: &'a Token,
    waiting: &'a Waiting,
}

impl Teller<'_> {
    /// Until it is `over` and nothing waits. Ends with a status for the agent, or
    /// with none when the stream is gone.
    async fn tell(&self, send: &mut SendStream, over: &CancellationToken) -> Option<Status> {
        loop {
            let push = tokio::select! {
                biased;
                _ = poll_fn(|cx| send.poll_reset(cx)) => return None,
                push = self.waiting.next() => push,
                () = over.cancelled() => return Some(Status::ok("")),
            };
            if !self.may_read(&push.project_path).await {
                continue;
            }
            let project = Project {
                id: push.project_path.to_string(),
            };
            let response = ReconcileProjectsResponse {
                project: Some(project),
            };
            send_frame(send, Frame::message(&response)).await.ok()?;
            self.flux.told(&push);
        }
    }

    async fn may_read(&self, path: &str) -> bool {
        let asked = self.control_plane.may_read_project(self.token, path);
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
