//! Conversations with callers, on WebSockets at one path below the prefix of the Kubernetes API.

use std::sync::Arc;

use control_plane::Identity;
use http::StatusCode;
use runtime::{
    drain::Drain,
    shares::{Limits, Share, Shares},
};

use crate::{
    admission::Admission, caller::Caller, failure::Failure, kubernetes_api::KubernetesApi,
    prefix::Prefix, route::UserRequest, scope::Scope, sessions::SessionKind, target::Target,
    websocket::Handshake,
};

/// What tells conversations of one kind from those of others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// Below the prefix; no API has such a path.
    pub(crate) path: &'static str,
    /// The subprotocol that clients offer.
    pub(crate) subprotocol: &'static str,
    /// WebSockets, by caller.
    pub(crate) sockets: Limits,
    /// Which sessions they are.
    pub(crate) session: SessionKind,
    /// What they are for, as a refusal says it.
    pub(crate) purpose: &'static str,
}

/// Admits callers to conversations of one kind.
#[derive(Debug)]
pub(crate) struct Conversations {
    kind: Kind,
    api: Arc<KubernetesApi>,
    admission: Arc<Admission>,
    prefix: Prefix,
    sockets: Shares<Identity>,
}

impl Conversations {
    /// Conversations of this kind, of which all requests go through `api`.
    pub(crate) fn new(
        kind: Kind,
        api: Arc<KubernetesApi>,
        admission: Arc<Admission>,
        prefix: Prefix,
    ) -> Self {
        Self {
            kind,
            api,
            admission,
            prefix,
            sockets: Shares::new(kind.sockets),
        }
    }

    /// Whether a request begins one.
    pub(crate) fn are_at(&self, request: &UserRequest) -> bool {
        self.prefix.leads_to(self.kind.path, request)
    }

    /// The handshake of a request that begins one, its caller, and the caller's place, to be held as long as it lasts.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) async fn admit(
        &self,
        request: &mut UserRequest,
        scope: &mut Scope,
        drain: &Drain,
    ) -> Result<(Handshake, Caller, Share<Identity>), Failure> {
        let handshake = Handshake::with_subprotocol(request, self.kind.subprotocol)?;
        let target = Target::of_request(&request.head, &self.prefix)?;
        let (head, path) = (&request.head, target.sent_path());
        let (parts, head) = (
            (self.api.clone(), &*self.admission),
            (head, request.remote_addr),
        );
        let caller = Caller::admit(parts, head, path, scope, drain).await?;
        let place = self.sockets.take(caller.identity().clone(), 1);
        let place = place.map_err(|full| {
            let message = format!("too many WebSockets for {}: {full}", self.kind.purpose);
            Failure::retryable(StatusCode::TOO_MANY_REQUESTS, message)
        })?;
        caller.opens(self.kind.session, scope);
        Ok((handshake, caller, place))
    }
}
