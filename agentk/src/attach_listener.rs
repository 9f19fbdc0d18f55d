//! A listener for `Receptive.Attach`, the call that carries the bytes of a connection, and for tunnels from kas.

use std::net::SocketAddr;
use std::time::Duration;

use proto::receptive::rpc::receptive_server::{Receptive as Service, ReceptiveServer};
use runtime::{
    drain::Drain,
    grpc::{self, Keepalive, KeepaliveOptions, ServerConnection},
    io::ByteStream,
    listen::{Accepted, AgentAcceptor, AgentAcceptorOptions, BindError, Listener, bind},
    serve::{Limit, Server},
    tls::{H2, HTTP_1_1, Identity, ServerTls, TlsError},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    kas_tunnels::{KasTunnels, Tended},
    version,
};

/// Concurrent connections.
const MAX_CONNECTIONS: usize = 100;
/// Concurrent calls on one connection; one is expected.
const MAX_CALLS_PER_CONNECTION: usize = 4;
/// How long a connection may be without a call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a WebSocket ping is sent: load balancers cut connections that are
/// silent for a minute, and do not see the pings inside.
const WEBSOCKET_PING_INTERVAL: Duration = Duration::from_secs(30);
/// How a connection with tunnels shows that kas is there. Inside of a call there are pings already.
const PINGS: KeepaliveOptions = KeepaliveOptions {
    interval: Duration::from_secs(30),
    timeout: Duration::from_secs(10),
    in_use: Duration::from_secs(10),
};
/// Protocols that TLS offers.
pub(crate) const ALPN: [&[u8]; 2] = [H2, HTTP_1_1];

/// A service of a listener.
pub(crate) trait Attachable: Service + Clone {
    /// What serves tunnels on a new connection; `None` if it takes none.
    fn tunnels(&self) -> Option<KasTunnels> {
        None
    }
}

/// A bound listener and the service behind it.
#[derive(Debug)]
pub(crate) struct AttachListener<S> {
    listener: Listener,
    acceptor: AgentAcceptor,
    service: S,
}

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AttachListenerError {
    /// The address.
    #[error("--{0}-listen-address")]
    Bind(&'static str, #[source] BindError),
    /// The certificates.
    #[error("--{0}-cert-file")]
    Tls(&'static str, #[source] Box<TlsError>),
    /// The key's file, or what is in it.
    #[error("--{0}-jwt-file")]
    Key(
        &'static str,
        #[source] Box<dyn std::error::Error + Send + Sync>,
    ),
}

impl<S: Attachable> AttachListener<S> {
    /// Listens; `flags` is what the names of its flags begin with.
    pub(crate) async fn bind(
        flags: &'static str,
        address: &str,
        tls: Option<ServerTls>,
        service: S,
    ) -> Result<Self, AttachListenerError> {
        let listener = bind(address).await;
        Ok(Self {
            listener: listener.map_err(|error| AttachListenerError::Bind(flags, error))?,
            acceptor: AgentAcceptor::new(AgentAcceptorOptions {
                tls,
                ping_interval: Some(WEBSOCKET_PING_INTERVAL),
                server: version::user_agent(),
                ..AgentAcceptorOptions::default()
            }),
            service,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Accepts connections until `stop`, and serves them until `last`.
    pub(crate) async fn serve(self, stop: CancellationToken, last: CancellationToken) {
        let (service, cut) = (self.service, last.child_token());
        // When this future is dropped, the connections end too.
        let _cut = cut.clone().drop_guard();
        let serve = move |accepted: Accepted| async move {
            cut.run_until_cancelled(serve_connection(service, accepted.io))
                .await;
        };
        let server = Server::new("other pods", self.listener, self.acceptor);
        let serving = server
            .limited(Limit::Wait(MAX_CONNECTIONS))
            .run(Drain::new(), serve);
        tokio::select! {
            () = serving => {}
            () = stop.cancelled() => {}
            () = last.cancelled() => {}
        }
        last.cancelled().await;
    }
}

/// Serves one connection to its end.
async fn serve_connection<S: Attachable>(service: S, mut io: ByteStream) {
    let heard = io.heard();
    let handshake = grpc::server_settings().handshake(io);
    let http2 = tokio::time::timeout(IDLE_TIMEOUT, handshake).await;
    let Ok(Ok(mut http2)): Result<Result<ServerConnection<_>, _>, _> = http2 else {
        return tracing::debug!("closing a connection that does not speak HTTP/2");
    };
    let pings = http2.ping_pong();
    let mut pings = pings.map(|pings| Keepalive::new(pings, heard, PINGS, 1.0));
    let mut tunnels = service.tunnels();
    let mut calls = JoinSet::new();
    loop {
        let without_tunnels = tunnels.as_ref().is_none_or(KasTunnels::is_empty);
        tokio::select! {
            request = http2.accept() => {
                let Some(Ok((request, respond))) = request else { return };
                if let Some(tunnels) = &mut tunnels && KasTunnels::is_for(&request) {
                    tunnels.accept(request, respond);
                    continue;
                }
                if calls.len() >= MAX_CALLS_PER_CONNECTION {
                    // Fails only when the caller has gone.
                    let full = Status::resource_exhausted("too many calls on one connection");
                    let _ = grpc::refuse(respond, &full);
                    continue;
                }
                let mut service = ReceptiveServer::new(service.clone());
                let request = grpc::with_present_name(request);
                calls.spawn(async move {
                    // A failure shows in the carried connection.
                    let _ = grpc::serve(&mut service, request, respond).await;
                });
            }
            Some(_) = calls.join_next() => {}
            Some(tended) = tend(&mut tunnels) => if tended == Tended::Over {
                return;
            },
            () = silent(&mut pings), if !without_tunnels => {
                return tracing::warn!("HTTP/2 keepalive timed out; closing the connection from kas");
            }
            () = tokio::time::sleep(IDLE_TIMEOUT), if calls.is_empty() && without_tunnels => return,
        }
    }
}

async fn tend(tunnels: &mut Option<KasTunnels>) -> Option<Tended> {
    match tunnels {
        Some(tunnels) => Some(tunnels.tend().await),
        None => None,
    }
}

/// Waits until a ping stays unanswered. Cancel-safe.
async fn silent(pings: &mut Option<Keepalive>) {
    match pings {
        Some(pings) => pings.timed_out().await,
        None => std::future::pending().await,
    }
}

/// TLS of a listener, if there is a certificate; `ca` must have signed the clients' certificates.
pub(crate) fn tls(
    flags: &'static str,
    identity: Option<Identity>,
    ca: Option<std::path::PathBuf>,
) -> Result<Option<ServerTls>, AttachListenerError> {
    let loaded = match (identity, ca) {
        (Some(identity), Some(ca)) => ServerTls::load_mutual(identity, ca, &ALPN),
        (Some(identity), None) => ServerTls::load(identity, &ALPN),
        (None, _) => return Ok(None),
    };
    loaded
        .map(Some)
        .map_err(|error| AttachListenerError::Tls(flags, Box::new(error)))
}
