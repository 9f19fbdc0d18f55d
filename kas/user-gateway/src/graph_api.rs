//! GitLab's graph API: a client says what it wants to see of a cluster, and is told objects, what connects them, and
//! each change, on one WebSocket. Everything is read by requests of the caller, so it takes nothing of the agent.

mod discovery;
mod expression;
mod feed;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod helm;
mod message;
mod model;
mod references;
mod selection;
mod session;

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
use selection::Evaluator;
use session::Session;

const CONVERSATIONS: Kind = Kind {
    path: "/graph",
    subprotocol: "gitlab-agent-graph-api",
    sockets: Limits {
        total: 500,
        each: 20,
        reserved: 100,
    },
    session: SessionKind::Graph,
    purpose: "graphs",
};
/// Bytes of the objects that are seen, by caller.
const GRAPH_BYTES: Limits = Limits {
    total: 256 << 20,
    each: 64 << 20,
    reserved: 32 << 20,
};
/// Bytes of events that are being read, by caller.
const EVENT_BYTES: Limits = Limits {
    total: 64 << 20,
    each: 16 << 20,
    reserved: 16 << 20,
};
/// Pages of lists that are being read, by caller.
const PAGES: Limits = Limits {
    total: 16,
    each: 2,
    reserved: 4,
};

/// Serves such WebSockets.
#[derive(Debug)]
pub(crate) struct GraphApi {
    conversations: Conversations,
    shared: Shared,
}

/// What all callers share.
#[derive(Debug, Clone)]
struct Shared {
    graph_bytes: Shares<Identity>,
    event_bytes: Shares<Identity>,
    pages: Shares<Identity>,
    evaluator: Evaluator,
}

impl GraphApi {
    /// Graphs of clusters, read through `api`, below this prefix.
    pub(crate) fn new(api: Arc<KubernetesApi>, admission: Arc<Admission>, prefix: Prefix) -> Self {
        Self {
            conversations: Conversations::new(CONVERSATIONS, api, admission, prefix),
            shared: Shared {
                graph_bytes: Shares::new(GRAPH_BYTES),
                event_bytes: Shares::new(EVENT_BYTES),
                pages: Shares::new(PAGES),
                evaluator: Evaluator::default(),
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
        let session = Session::new(caller, self.shared.clone(), drain.last_called());
        let Handshake { answer, upgrade } = handshake;
        let upgraded = move |scope| Box::pin(session.run(upgrade, place, scope)) as _;
        Ok(Answer::Upgrade(answer, Box::new(upgraded)))
    }
}

impl Route for GraphApi {
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
