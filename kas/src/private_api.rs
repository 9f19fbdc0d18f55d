//! The private API: replicas ask each other for tunnels.

mod doorman;
mod self_test;
mod tokens;

use std::{sync::Arc, time::Duration};

use h2::RecvStream;
use http::Request;
use router::{Owner, Registry, owner};
use runtime::{
    connect::{ConnectOptions, Target, connect},
    drain::Drain,
    grpc::{Patience, SendResponse},
    listen::{Listener, PlainAccepted, PlainAcceptor, RemoteAddr},
    serve::{
        Server,
        http2::{self, Caller},
    },
};
use tracing::Span;

use doorman::{Doorman, Visitor};
pub use self_test::{SelfTestError, self_test};
pub use tokens::Tokens;

/// A peer that is gone without a word lets go of the tunnels that it used.
const PATIENCE: Patience = Patience {
    busy: Duration::from_secs(5),
    idle: Duration::from_secs(30),
    answer: Duration::from_secs(5),
};
/// The port's name in the log.
const PORT: &str = "other replicas";
/// What those are told whose request is no call.
const DIRECTIONS: &str = "This is the port of other replicas, for gRPC. The Kubernetes API is served at the address \
     of agent.kubernetes_api.listen (by default port 8154).";

/// How replicas talk to each other.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// How they prove that they are replicas.
    pub tokens: Arc<Tokens>,
    /// How to dial a peer.
    pub dial: ConnectOptions,
}

/// Answers peers that ask for tunnels held here.
#[derive(Debug)]
pub struct PrivateApi {
    registry: Arc<Registry>,
    doorman: Doorman,
}

impl PrivateApi {
    /// Serves tunnels of the replica `me` to peers that show such `tokens`, made for it.
    #[must_use]
    pub fn new(me: Owner, registry: Arc<Registry>, tokens: Arc<Tokens>) -> Arc<Self> {
        let doorman = Doorman::new(me, tokens);
        Arc::new(Self { registry, doorman })
    }

    /// Accepts peers until draining starts; calls in progress are finished.
    pub async fn serve(self: Arc<Self>, listener: Listener, acceptor: PlainAcceptor, drain: Drain) {
        let leaving = drain.clone();
        let serve = move |accepted: PlainAccepted| {
            let remote_addr = RemoteAddr::Tcp(accepted.remote_addr);
            http2::serve(accepted.io, remote_addr, options(), self, leaving)
        };
        let server = Server::new(PORT, listener, acceptor);
        server.run(drain, serve).await;
    }
}

fn options() -> http2::Options {
    http2::Options {
        settings: runtime::grpc::peer_settings(),
        liveness: PATIENCE,
        max_age: None,
        // HTTP/2 has a limit of its own.
        max_calls: usize::MAX,
        max_calls_unauthenticated: usize::MAX,
    }
}

impl http2::Service for PrivateApi {
    type Session = Visitor;

    fn connected(&self) -> Visitor {
        self.doorman.visitor()
    }

    fn span(&self, remote_addr: RemoteAddr) -> Span {
        tracing::debug_span!("peer_connection", peer = %remote_addr)
    }

    fn admit(
        &self,
        visitor: &Visitor,
        request: &Request<RecvStream>,
        respond: SendResponse,
    ) -> Option<(Caller, SendResponse)> {
        let respond = runtime::grpc::turn_away(request, respond, DIRECTIONS)?;
        let respond = self.doorman.admit(visitor, request, respond)?;
        Some((Caller::Authenticated, respond))
    }

    async fn call(
        self: Arc<Self>,
        request: Request<RecvStream>,
        respond: SendResponse,
        drain: Drain,
    ) {
        owner::serve(&self.registry, request, respond, &drain).await;
    }
}

/// Dials peers by their private API URL (`grpc://` or `grpcs://`).
#[must_use]
pub fn dial(options: ConnectOptions) -> router::peers::Dial {
    let options = Arc::new(options);
    Arc::new(move |url| {
        let options = options.clone();
        Box::pin(async move {
            let target = Target::parse(&url).map_err(std::io::Error::other)?;
            let connected = connect(&target, &options)
                .await
                .map_err(std::io::Error::other)?;
            Ok(connected.io)
        })
    })
}
