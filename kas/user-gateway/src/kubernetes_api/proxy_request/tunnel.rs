//! Looks for a tunnel for a request, as long as its caller may have one.

use std::{pin::pin, time::Duration};

use control_plane::Access;
use router::{Call, OpenError};
use runtime::patience::within;
use tokio::time::Instant;

use super::{KubernetesApi, ProxyRequest};
use crate::{
    failure::Failure,
    kubernetes_api::{
        exchange::Interrupted, failure, request_head::is_on_behalf_of, upload::Upload,
    },
    scope::Scope,
};

/// How long a request looks for a tunnel before it counts as queued.
const QUEUED_AFTER: Duration = Duration::from_millis(100);

/// The outcome of looking for a tunnel.
enum Search {
    Done(Result<Call, OpenError>),
    /// While the call waited, its caller became this one.
    AllowedAs(Access),
}

impl KubernetesApi {
    /// A call through a tunnel of the request's agent.
    pub(super) async fn open(
        &self,
        request: &mut ProxyRequest,
        mut upload: Option<&mut Upload>,
        scope: &mut Scope,
    ) -> Result<Call, Failure> {
        let started = Instant::now();
        scope.searching = Some(started);
        let searching = scope.trace().child("tunnel search");
        let opened = loop {
            match self
                .search(request, upload.as_deref_mut(), scope.deadline)
                .await?
            {
                Search::Done(opened) => break opened,
                Search::AllowedAs(access) => request.act_as(&access),
            }
        };
        drop(searching);
        let took = started.elapsed();
        scope.searching = None;
        scope.routing += took;
        match opened {
            Ok(call) => {
                self.metrics.routed(took);
                scope.passes(call.peer());
                Ok(call)
            }
            Err(error) => {
                self.metrics.not_routed(took);
                Err(match (&error, request.reencoding) {
                    (OpenError::NotOffered, Some(change)) => failure::of_reencoding(change),
                    _ => failure::of_open(&error),
                })
            }
        }
    }

    /// Looks for a tunnel, as long as the caller may have one.
    async fn search(
        &self,
        request: &ProxyRequest,
        upload: Option<&mut Upload>,
        deadline: Instant,
    ) -> Result<Search, Failure> {
        let open = (self.router).open(request.agent, &request.need, &request.opening, deadline);
        let mut open = pin!(open);
        if let Ok(opened) = within(QUEUED_AFTER, open.as_mut()).await {
            return Ok(Search::Done(opened));
        }
        let _place = self.places.hold(request.need.caller.clone())?;
        tokio::select! {
            biased;
            opened = open => Ok(Search::Done(opened)),
            error = fails_ahead(upload) => Err(failure::of_interruption(&error, true)),
            access = request.rights.lapse(|it| is_on_behalf_of(&request.opening, it)) => access.map(Search::AllowedAs),
        }
    }
}

/// Ends when the client does not send its body.
async fn fails_ahead(upload: Option<&mut Upload>) -> Interrupted {
    match upload {
        Some(upload) => upload.fails_ahead().await.into(),
        None => std::future::pending().await,
    }
}
