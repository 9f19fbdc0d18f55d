//! The private API: replicas ask each other for tunnels.

mod doorman;
mod self_test;
mod tokens;

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::Request;
use router::{Owner, Registry, owner};
use runtime::{
    connect::{ConnectOptions, Target, connect},
    drain::Drain,
    grpc::{Patience, SendResponse, UNKNOWN_TIMEOUT, silence, status_from},
    io::ByteStream,
    listen::{Listener, PlainAcceptor},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use doorman::{Doorman, Visitor};
pub use self_test::{SelfTestError, self_test};
pub use tokens::Tokens;

/// A peer that is gone without a word lets go of the tunnels that it used.
const PATIENCE: Patience = Patience {
    busy: Duration::from_secs(5),
    idle: Duration::from_secs(30),
    answer: Duration::from_secs(5),
};
/// How long the HTTP/2 handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

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
        loop {
            let (socket, peer) = tokio::select! {
                accepted = listener.accept() => accepted,
                () = drain.wait() => return,
            };
            let (api, acceptor, leaving) = (self.clone(), acceptor.clone(), drain.clone());
            drain.spawn(async move {
                match acceptor.accept(socket, peer).await {
                    Ok(accepted) => api.connection(accepted.io, peer, leaving).await,
                    Err(error) => error.report("other replicas", &peer),
                }
            });
        }
    }

    async fn connection(self: Arc<Self>, mut stream: ByteStream, peer: SocketAddr, drain: Drain) {
        let heard = stream.heard();
        let handshake = runtime::grpc::unknown(runtime::grpc::peer_settings()).handshake(stream);
        let Ok(Ok(mut http2)) = tokio::time::timeout(HANDSHAKE, handshake).await else {
            return tracing::debug!(%peer, "a peer's connection did not begin with HTTP/2");
        };
        let Some(pings) = http2.ping_pong() else {
            return;
        };
        let calls = TaskTracker::new();
        let visitor = Arc::new(self.doorman.visitor());
        let mut silence = pin!(silence(pings, heard, PATIENCE, || !calls.is_empty()));
        let known = CancellationToken::new();
        let mut unknown = pin!(tokio::time::timeout(UNKNOWN_TIMEOUT, known.cancelled()));
        let (mut welcomed, mut leaving) = (false, false);
        loop {
            tokio::select! {
                accepted = http2.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        let (known, visitor) = (known.clone(), visitor.clone());
                        calls.spawn(self.clone().call(request, respond, known, visitor, drain.clone()));
                    }
                    Some(Err(error)) => {
                        return tracing::debug!(%peer, status = %status_from(&error), "a peer's connection broke");
                    }
                    None => return,
                },
                () = &mut silence => {
                    return tracing::info!(%peer, "a peer stopped answering; its connection is closed");
                }
                asked = &mut unknown, if !welcomed => {
                    if asked.is_err() {
                        return tracing::debug!(%peer, "nobody has shown a good token on a connection; it is closed");
                    }
                    welcomed = true;
                    runtime::grpc::welcome(&mut http2);
                }
                () = drain.wait(), if !leaving => {
                    leaving = true;
                    http2.graceful_shutdown();
                }
            }
        }
    }

    async fn call(
        self: Arc<Self>,
        request: Request<h2::RecvStream>,
        respond: SendResponse,
        known: CancellationToken,
        visitor: Arc<Visitor>,
        leaving: Drain,
    ) {
        let directions = "This is the port of other replicas, for gRPC. The Kubernetes API is served at the address \
             of agent.kubernetes_api.listen (by default port 8154).";
        let Some(respond) = runtime::grpc::turn_away(&request, respond, directions) else {
            return;
        };
        if let Some(respond) = self.doorman.admit(&visitor, &request, respond) {
            known.cancel();
            owner::serve(&self.registry, request, respond, &leaving).await;
        }
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
