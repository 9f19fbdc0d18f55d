//! The private API: the port on which replicas request tunnels from each other.

mod authenticator;
mod challenge;
mod self_test;
mod tokens;

use std::{sync::Arc, time::Duration};

use h2::RecvStream;
use http::Request;
use router::{Owner, Registry, owner};
use runtime::{
    connect::{ConnectOptions, Target, connect},
    drain::Drain,
    grpc::{ProbeTimeouts, SendResponse},
    listen::{Listener, PlainAccepted, PlainAcceptor, RemoteAddr},
    serve::{
        Server,
        http2::{self, Caller},
    },
};
use tracing::{Span, field};

use authenticator::{Authenticator, Session};
pub use self_test::{SelfTestError, self_test};
pub use tokens::Tokens;

/// Keepalive: tunnels that an unresponsive peer uses are released.
const KEEPALIVE: ProbeTimeouts = ProbeTimeouts {
    busy: Duration::from_secs(5),
    idle: Duration::from_secs(30),
    answer: Duration::from_secs(5),
};
/// The port's name in the log.
const PORT: &str = "other replicas";
/// The answer to requests that are not gRPC.
const DIRECTIONS: &str = "This is the port of other replicas, for gRPC. The Kubernetes API is served at the address \
     of agent.kubernetes_api.listen (by default port 8154).";

/// Settings for connections between replicas.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// Authentication.
    pub tokens: Arc<Tokens>,
    /// Dialling.
    pub dial: ConnectOptions,
}

/// Serves peers that request tunnels of this replica.
#[derive(Debug)]
pub struct PrivateApi {
    registry: Arc<Registry>,
    authenticator: Authenticator,
}

impl PrivateApi {
    /// Serves tunnels of the replica `me` to peers that it authenticates by `tokens`.
    #[must_use]
    pub fn new(me: Owner, registry: Arc<Registry>, tokens: Arc<Tokens>) -> Arc<Self> {
        tokens.sign_as(&me.replica);
        let authenticator = Authenticator::new(me, tokens);
        Arc::new(Self {
            registry,
            authenticator,
        })
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
        liveness: KEEPALIVE,
        max_age: None,
        // HTTP/2 has a limit of its own.
        max_calls: usize::MAX,
        max_calls_unauthenticated: usize::MAX,
    }
}

impl http2::Service for PrivateApi {
    type Session = Session;

    fn connected(&self) -> Session {
        self.authenticator.session()
    }

    fn span(&self, remote_addr: RemoteAddr) -> Span {
        // Which replica it is, its first token says.
        tracing::debug_span!("peer_connection", %remote_addr, replica = field::Empty)
    }

    fn admit(
        &self,
        session: &Session,
        request: &Request<RecvStream>,
        respond: SendResponse,
    ) -> Option<(Caller, SendResponse)> {
        let respond = runtime::grpc::reject_non_grpc(request, respond, DIRECTIONS)?;
        let respond = self.authenticator.admit(session, request, respond)?;
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
