//! Many watches on one WebSocket, for GitLab's dashboard: browsers allow six connections of HTTP/1.1 to a host. Each
//! watch is a request of the caller as any other, with their rights, a place and an audit record of its own.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod message;
mod session;
mod watching;

use std::sync::Arc;

use control_plane::Identity;
use futures_util::future::BoxFuture;
use runtime::{
    drain::Drain,
    shares::{Limits, Shares},
};

use crate::{
    admission::Admission,
    conversations::{Conversations, Kind},
    failure::Failure,
    kubernetes_api::KubernetesApi,
    prefix::Prefix,
    route::{Answer, Route, UserRequest},
    scope::Scope,
    sessions::SessionKind,
    websocket::Handshake,
};
use session::Session;

const CONVERSATIONS: Kind = Kind {
    path: "/watch",
    subprotocol: "gitlab-agent-watch-api",
    sockets: Limits {
        total: 2_000,
        each: 100,
        reserved: 200,
    },
    session: SessionKind::WatchAggregator,
    purpose: "watches",
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
    conversations: Conversations,
    shares: Quotas,
}

/// What callers have of it.
#[derive(Debug, Clone)]
struct Quotas {
    watches: Shares<Identity>,
    bytes: Shares<Identity>,
}

impl WatchAggregator {
    /// An aggregator of watches through `api`, below this prefix.
    pub(crate) fn new(api: Arc<KubernetesApi>, admission: Arc<Admission>, prefix: Prefix) -> Self {
        Self {
            conversations: Conversations::new(CONVERSATIONS, api, admission, prefix),
            shares: Quotas {
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
        let admitted = self.conversations.admit(request, scope, drain).await?;
        let (handshake, caller, place) = admitted;
        let session = Session::new(caller, self.shares.clone(), drain.last_called());
        let Handshake { answer, upgrade } = handshake;
        let upgraded = move |scope| Box::pin(session.run(upgrade, place, scope)) as _;
        Ok(Answer::Upgrade(answer, Box::new(upgraded)))
    }
}

impl Route for WatchAggregator {
    fn matches(&self, request: &UserRequest) -> bool {
        self.conversations.are_at(request)
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
