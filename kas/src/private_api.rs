//! The private API: the port on which replicas request tunnels from each other.

mod authenticator;
mod challenge;
mod self_test;
mod tokens;

use std::{path::Path, sync::Arc, time::Duration};

use cluster_state::urls;
use h2::RecvStream;
use http::Request;
use proto::bounds::Bounds;
use router::{Owner, Registry, owner};
use runtime::{
    connect::{ConnectError, ConnectOptions, Target, TargetError, connect, connect_unix},
    drain::Drain,
    grpc::{self, ProbeTimeouts, SendResponse},
    io::ByteStream,
    listen::{AnyListener, PlainAcceptor, RemoteAddr},
    serve::{
        Server,
        http2::{self, Caller},
    },
};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tracing::{Span, field};

use authenticator::{Authenticator, Session};
pub(crate) use self_test::{Identified, identify};
pub use self_test::{SelfTestError, self_test};
pub use tokens::Tokens;

/// Keepalive: tunnels that an unresponsive peer uses are released.
const KEEPALIVE: ProbeTimeouts = ProbeTimeouts {
    busy: Duration::from_secs(5),
    idle: Duration::from_secs(30),
    answer: Duration::from_secs(5),
};
/// What a peer may ask besides a tunnel, in one message.
const QUESTION_BOUNDS: Bounds = Bounds::bytes(4 << 10);
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
    /// What this replica publishes itself. Where it has several URLs, some mean the machine that dials them, so that
    /// others' equal ones lead nowhere else.
    pub own: Arc<str>,
}

/// Serves peers that request tunnels of this replica.
#[derive(Debug)]
pub struct PrivateApi {
    registry: Arc<Registry>,
    /// What peers ask besides tunnels.
    questions: Routes,
    authenticator: Authenticator,
    calls_to_finish: TaskTracker,
}

impl PrivateApi {
    /// Serves tunnels of the replica `me`, and answers `questions` about it ([`admin::peer_questions`]), to peers that
    /// it authenticates by `tokens`.
    #[must_use]
    pub fn new(
        me: Owner,
        registry: Arc<Registry>,
        tokens: Arc<Tokens>,
        questions: Routes,
    ) -> Arc<Self> {
        tokens.sign_as(&me.replica);
        let authenticator = Authenticator::new(me, tokens);
        Arc::new(Self {
            registry,
            questions,
            authenticator,
            calls_to_finish: TaskTracker::new(),
        })
    }

    /// Counts calls in progress that their replica does not make again elsewhere when they break, as it does with
    /// watches: where one of these is cut, somebody loses an answer.
    #[must_use]
    pub fn calls_to_finish(&self) -> &TaskTracker {
        &self.calls_to_finish
    }

    /// Accepts peers until draining starts; calls in progress are finished.
    pub async fn serve(
        self: Arc<Self>,
        listener: impl Into<AnyListener>,
        acceptor: PlainAcceptor,
        drain: Drain,
    ) {
        let leaving = drain.clone();
        let serve = move |(io, remote_addr): (ByteStream, RemoteAddr)| {
            http2::serve(io, remote_addr, options(), self, leaving)
        };
        let server = Server::new(PORT, listener.into(), acceptor);
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
        if request.uri().path().starts_with(admin::PEER_SERVICE) {
            let mut questions = self.questions.clone();
            // Whoever is gone needs no answer.
            let _ = grpc::serve_counted(
                &mut questions,
                request,
                respond,
                Some(&QUESTION_BOUNDS),
                None,
            )
            .await;
            return;
        }
        let _counted = (!owner::moves(&request)).then(|| self.calls_to_finish.token());
        owner::serve(&self.registry, request, respond, &drain).await;
    }
}

/// Why there is no connection to a URL of a replica.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot connect to {0}: {1}")]
    Unix(String, #[source] std::io::Error),
    #[error("{0} leads back to this replica")]
    Own(String),
}

impl DialError {
    /// Whether the machine is there and nobody listens.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_refusal(),
            Self::Unix(_, error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
            Self::Target(_) | Self::Own(_) => false,
        }
    }
}

/// Dials peers by one of their private API's URLs (`grpc://`, `grpcs://` or `unix://`), for a replica that publishes
/// `own`.
#[must_use]
pub fn dial(options: ConnectOptions, own: &str) -> router::peers::Dial {
    let (options, own): (_, Arc<str>) = (Arc::new(options), own.into());
    Arc::new(move |url| {
        let (options, own) = (options.clone(), own.clone());
        Box::pin(async move {
            let connected = if leads_back(&url, &own) {
                Err(DialError::Own(url))
            } else {
                dial_url(&url, &options).await
            };
            connected.map_err(std::io::Error::other)
        })
    })
}

/// Whether a URL that a peer publishes besides others is one of this replica's several.
fn leads_back(url: &str, own: &str) -> bool {
    urls(own).count() > 1 && urls(own).any(|own| own == url)
}

async fn dial_url(url: &str, options: &ConnectOptions) -> Result<ByteStream, DialError> {
    if let Some(path) = url.strip_prefix("unix://") {
        let connected = connect_unix(Path::new(path)).await;
        return connected.map_err(|error| DialError::Unix(url.to_owned(), error));
    }
    Ok(connect(&Target::parse(url)?, options).await?.io)
}
