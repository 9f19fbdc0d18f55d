//! Many watches on one WebSocket, for GitLab's dashboard: browsers allow six connections of HTTP/1.1 to a host. Each
//! watch is a request of the caller as any other, with their rights, a place and an audit record of its own.

mod message;
mod session;
mod watching;

use std::sync::Arc;

use control_plane::Identity;
use futures_util::future::BoxFuture;
use http::StatusCode;
use runtime::{
    drain::Drain,
    shares::{Limits, Share, Shares},
};

use crate::{
    admission::Admission,
    caller::Caller,
    failure::Failure,
    kubernetes_api::KubernetesApi,
    route::{Answer, Route, UserRequest},
    scope::Scope,
    target::{Target, strip_prefix},
    websocket::Handshake,
};
use session::Session;

/// Below the prefix of the Kubernetes API; no API has such a path.
const PATH: &str = "/watch";
const SUBPROTOCOL: &str = "gitlab-agent-watch-api";
/// WebSockets, by caller.
const SOCKETS: Limits = Limits {
    total: 2_000,
    each: 100,
    reserved: 200,
};
/// Watches of one WebSocket.
const WATCHES_OF_SOCKET: usize = 100;
/// Watches, by caller.
const WATCHES: Limits = Limits {
    total: 10_000,
    each: 500,
    reserved: 1_000,
};
/// Bytes of events that are not written to their WebSocket, by caller. One may have as many as four of the longest.
const EVENT_BYTES: Limits = Limits {
    total: 128 << 20,
    each: 16 << 20,
    reserved: 16 << 20,
};

/// Serves such WebSockets.
#[derive(Debug)]
pub(crate) struct WatchAggregator {
    api: Arc<KubernetesApi>,
    admission: Arc<Admission>,
    url_path_prefix: String,
    shares: Quotas,
}

/// What callers have of it.
#[derive(Debug, Clone)]
struct Quotas {
    sockets: Shares<Identity>,
    watches: Shares<Identity>,
    bytes: Shares<Identity>,
}

impl WatchAggregator {
    /// An aggregator of watches through `api`, below this prefix.
    pub(crate) fn new(
        api: Arc<KubernetesApi>,
        admission: Arc<Admission>,
        url_path_prefix: &str,
    ) -> Self {
        Self {
            api,
            admission,
            url_path_prefix: url_path_prefix.to_owned(),
            shares: Quotas {
                sockets: Shares::new(SOCKETS),
                watches: Shares::new(WATCHES),
                bytes: Shares::new(EVENT_BYTES),
            },
        }
    }

    async fn accept(
        &self,
        request: &mut UserRequest,
        scope: &mut Scope,
        drain: &Drain,
    ) -> Result<Answer, Failure> {
        let handshake = Handshake::with_subprotocol(request, SUBPROTOCOL)?;
        let target = Target::of_request(&request.head, &self.url_path_prefix)?;
        let (head, path) = (&request.head, target.sent_path());
        let (parts, head) = (
            (self.api.clone(), &*self.admission),
            (head, request.remote_addr),
        );
        let caller = Caller::admit(parts, head, path, scope, drain).await?;
        let place = self.socket(caller.identity().clone())?;
        let session = Session::new(caller, self.shares.clone(), drain.last_called());
        let Handshake { answer, upgrade } = handshake;
        let upgraded = move |scope| Box::pin(session.run(upgrade, place, scope)) as _;
        Ok(Answer::Upgrade(answer, Box::new(upgraded)))
    }

    fn socket(&self, who: Identity) -> Result<Share<Identity>, Failure> {
        self.shares.sockets.take(who, 1).map_err(|full| {
            let message = format!("too many WebSockets for watches: {full}");
            Failure::retryable(StatusCode::TOO_MANY_REQUESTS, message)
        })
    }
}

impl Route for WatchAggregator {
    fn matches(&self, request: &UserRequest) -> bool {
        strip_prefix(request.head.uri.path(), &self.url_path_prefix) == PATH
    }

    fn takes_ambient_credentials(&self) -> bool {
        true
    }

    fn serve<'a>(
        &'a self,
        request: &'a mut UserRequest,
        scope: &'a mut Scope,
        drain: &'a Drain,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(self.accept(request, scope, drain))
    }
}
