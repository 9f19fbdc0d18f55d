//! A listener on which others make one call, `Receptive.Attach`, which carries
//! the bytes of a connection.

use std::net::SocketAddr;
use std::time::Duration;

use proto::receptive::rpc::receptive_server::{Receptive as Service, ReceptiveServer};
use runtime::{
    drain::Drain,
    grpc::{self, ServerConnection},
    io::ByteStream,
    listen::{Accepted, AgentAcceptor, AgentAcceptorOptions, BindError, Listener, bind},
    serve::{Limit, Server},
    tls::{H2, HTTP_1_1, Identity, ServerTls, TlsError},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::version;

/// Connections at once.
const CONNECTIONS: usize = 100;
/// Calls on one connection: one is made.
const CALLS: usize = 4;
/// How long a connection may be without a call.
const IDLE: Duration = Duration::from_secs(10);
/// How often a WebSocket ping is sent: load balancers cut connections that are
/// silent for a minute, and do not see the pings inside.
const WEBSOCKET_PING: Duration = Duration::from_secs(30);
/// What TLS offers.
pub(crate) const ALPN: [&[u8]; 2] = [H2, HTTP_1_1];

/// A bound listener, and what serves the calls.
#[derive(Debug)]
pub(crate) struct Entrance<S> {
    listener: Listener,
    acceptor: AgentAcceptor,
    service: S,
}

/// A listener that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EntranceError {
    /// The address.
    #[error("--{0}-listen-address")]
    Bind(&'static str, #[source] BindError),
    /// The certificates.
    #[error("--{0}-cert-file")]
    Tls(&'static str, #[source] Box<TlsError>),
    /// The key's file, or what is in it.
    #[error("--{0}-jwt-file")]
    Key(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
}

impl<S: Service + Clone> Entrance<S> {
    /// Listens; `flags` is what the names of its flags begin with.
    pub(crate) async fn bind(
        flags: &'static str,
        address: &str,
        tls: Option<ServerTls>,
        service: S,
    ) -> Result<Self, EntranceError> {
        let listener = bind(address).await;
        Ok(Self {
            listener: listener.map_err(|error| EntranceError::Bind(flags, error))?,
            acceptor: AgentAcceptor::new(AgentAcceptorOptions {
                tls,
                ping_interval: Some(WEBSOCKET_PING),
                server: version::user_agent(),
                ..AgentAcceptorOptions::default()
            }),
            service,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Lets others in until `stop`, and carries their bytes until `last`.
    pub(crate) async fn serve(self, stop: CancellationToken, last: CancellationToken) {
        let (service, cut) = (self.service, last.clone());
        let serve = move |accepted: Accepted| async move {
            cut.run_until_cancelled(attend(service, accepted.io)).await;
        };
        let server = Server::new("other pods", self.listener, self.acceptor);
        let serving = server
            .limited(Limit::Wait(CONNECTIONS))
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
async fn attend<S: Service + Clone>(service: S, io: ByteStream) {
    let handshake = grpc::server_settings().handshake(io);
    let http2 = tokio::time::timeout(IDLE, handshake).await;
    let Ok(Ok(mut http2)): Result<Result<ServerConnection<_>, _>, _> = http2 else {
        return tracing::debug!("what was dialled here is not gRPC");
    };
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            request = http2.accept() => {
                let Some(Ok((request, respond))) = request else { return };
                if calls.len() >= CALLS {
                    // Who left needs no answer.
                    let full = Status::resource_exhausted("too many calls on one connection");
                    let _ = grpc::refuse(respond, &full);
                    continue;
                }
                let mut service = ReceptiveServer::new(service.clone());
                calls.spawn(async move {
                    // Whose end it was shows in the connection that was carried.
                    let _ = grpc::serve(&mut service, request, respond).await;
                });
            }
            Some(_) = calls.join_next() => {}
            () = tokio::time::sleep(IDLE), if calls.is_empty() => return,
        }
    }
}

/// The server's side of TLS, if there is a certificate; `ca` must have signed
/// those of who comes.
pub(crate) fn tls(
    flags: &'static str,
    identity: Option<Identity>,
    ca: Option<std::path::PathBuf>,
) -> Result<Option<ServerTls>, EntranceError> {
    let loaded = match (identity, ca) {
        (Some(identity), Some(ca)) => ServerTls::load_mutual(identity, ca, &ALPN),
        (Some(identity), None) => ServerTls::load(identity, &ALPN),
        (None, _) => return Ok(None),
    };
    loaded
        .map(Some)
        .map_err(|error| EntranceError::Tls(flags, Box::new(error)))
}
