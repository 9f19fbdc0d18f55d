//! Where kas dials an agent that waits for it: the listener, and who may come in.
//!
//! kas makes one call on each connection, `Receptive.Attach`, which carries the
//! bytes of a connection with the roles reversed: all that follows is as if the
//! agent had dialled kas.

use std::{net::SocketAddr, path::PathBuf, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt};
use proto::receptive::rpc::{
    Chunk,
    receptive_server::{Receptive as Service, ReceptiveServer},
};
use runtime::{
    grpc::{self, ServerConnection},
    io::ByteStream,
    jwt::{CheckingKey, KeyError},
    listen::{AgentAcceptor, AgentAcceptorOptions, BindError, Listener, bind},
    tls::{H2, HTTP_1_1, ServerTls, TlsError},
};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{config::Receptive, session::Arrivals, version};

/// Connections at once.
const CONNECTIONS: usize = 100;
/// Calls on one connection: kas makes one.
const CALLS: usize = 4;
/// Those who came in and are not attended to yet.
const WAITING: usize = 4;
/// How long a connection may be without a call.
const IDLE: Duration = Duration::from_secs(10);
/// How often a WebSocket ping is sent: load balancers cut connections that are
/// silent for a minute, and do not see the pings inside.
const WEBSOCKET_PING: Duration = Duration::from_secs(30);
/// Who signs the tokens that kas shows, and for whom.
const ISSUER: &str = "gitlab-kas";
const AUDIENCE: &str = "gitlab-agent";

/// A bound listener.
#[derive(Debug)]
pub(crate) struct Entrance {
    listener: Listener,
    acceptor: AgentAcceptor,
    door: Door,
}

/// A listener that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EntranceError {
    /// The address.
    #[error("--api-listen-address: {0}")]
    Bind(#[from] BindError),
    /// The certificates.
    #[error("--api-cert-file: {0}")]
    Tls(#[from] TlsError),
    /// The key's file.
    #[error("--api-jwt-file: cannot read {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The key.
    #[error("--api-jwt-file: {path}: {error}")]
    Key {
        /// The file.
        path: String,
        /// What is wrong with it.
        error: KeyError,
    },
}

impl Entrance {
    /// Listens; who comes in arrives at the lines.
    pub(crate) async fn bind(config: &Receptive) -> Result<(Self, Arrivals), EntranceError> {
        let alpn = [H2, HTTP_1_1];
        let tls = match (config.tls.clone(), config.client_ca.clone()) {
            (Some(identity), Some(ca)) => Some(ServerTls::load_mutual(identity, ca, &alpn)?),
            (Some(identity), None) => Some(ServerTls::load(identity, &alpn)?),
            (None, _) => None,
        };
        let (arrivals, arrived) = mpsc::channel(WAITING);
        let entrance = Self {
            listener: bind(&config.address).await?,
            acceptor: AgentAcceptor::new(AgentAcceptorOptions {
                tls,
                ping_interval: Some(WEBSOCKET_PING),
                server: version::user_agent(),
                ..AgentAcceptorOptions::default()
            }),
            door: Door {
                key: config.key.as_ref().map(read).transpose()?,
                arrivals,
            },
        };
        Ok((entrance, Arrivals::new(arrived)))
    }

    /// Lets kas in until `stop`, and carries its bytes until `last`.
    pub(crate) async fn serve(self, stop: CancellationToken, last: CancellationToken) {
        tracing::info!(net_address = %self.listener.local_addr(), "kas may dial this agent");
        let mut connections = JoinSet::new();
        loop {
            let room = connections.len() < CONNECTIONS && !stop.is_cancelled();
            tokio::select! {
                (socket, peer) = self.listener.accept(), if room => {
                    let door = self.door.clone();
                    connections.spawn(door.welcome(self.acceptor.clone(), socket, peer));
                }
                Some(_) = connections.join_next() => {}
                () = stop.cancelled(), if room => {}
                () = last.cancelled() => return,
            }
        }
    }
}

/// Looks who comes.
#[derive(Debug, Clone)]
struct Door {
    key: Option<CheckingKey>,
    arrivals: mpsc::Sender<ByteStream>,
}

impl Door {
    async fn welcome(self, acceptor: AgentAcceptor, socket: TcpStream, peer: SocketAddr) {
        match Box::pin(acceptor.accept(socket, peer)).await {
            Ok(accepted) => self.attend(accepted.io).await,
            Err(error) if error.is_harmless() => {}
            Err(error) => tracing::info!(%error, %peer, "a connection was refused"),
        }
    }

    /// Serves one connection to its end.
    async fn attend(self, io: ByteStream) {
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
                    let mut service = ReceptiveServer::new(self.clone());
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

    fn check(&self, request: &Request<Streaming<Chunk>>) -> Result<(), Status> {
        let Some(key) = &self.key else {
            // The TLS handshake has seen kas's certificate.
            return Ok(());
        };
        let headers = request.metadata().clone().into_headers();
        let token = grpc::bearer(&headers)?;
        key.verify(token, ISSUER, AUDIENCE).map_err(|error| {
            tracing::warn!(%error, "somebody dialled this agent and is not its kas");
            Status::unauthenticated(format!("the agent refuses kas: {error}"))
        })
    }
}

#[tonic::async_trait]
impl Service for Door {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<Chunk>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.check(&request)?;
        let place = self.arrivals.try_reserve();
        let place =
            place.map_err(|_| Status::resource_exhausted("too many connections of kas wait"))?;
        let (outgoing, chunks) = grpc::outgoing();
        place.send(grpc::carried(request.into_inner(), outgoing));
        Ok(Response::new(Box::pin(chunks.map(Ok))))
    }
}

fn read(path: &PathBuf) -> Result<CheckingKey, EntranceError> {
    let named = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| EntranceError::Read {
        path: named(),
        error,
    })?;
    CheckingKey::parse(&text).map_err(|error| EntranceError::Key {
        path: named(),
        error,
    })
}
