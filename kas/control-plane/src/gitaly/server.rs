//! One Gitaly server, and the connection to it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Uri};
use proto::agent::entity::GitalyInfo;
use runtime::{
    connect::{ConnectError, ConnectOptions, connect},
    grpc::{Channel, ProbeTimeouts, SendRequest, unresponsive},
    io::ByteStream,
    metrics::limiters::Limiter,
    tls::{ClientTls, ClientTlsOptions, TlsError},
};
use tokio::{
    net::UnixStream,
    sync::Mutex as AsyncMutex,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    address::Address,
    credentials,
    error::{GitalyError, Rpc},
    turns::Turns,
};
use crate::config::RateLimit;

/// Servers remembered at most: far more than any GitLab has.
const SERVERS_MAX: usize = 1000;
/// How long a connection may take to be made.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server that could not be reached is left alone.
const RECONNECT_BACKOFF: Duration = Duration::from_secs(1);
/// Silence is looked into as GitLab's kas does, without calls too, so that a dead
/// connection is found before it is used again.
const KEEPALIVE: ProbeTimeouts = ProbeTimeouts {
    busy: Duration::from_secs(20),
    idle: Duration::from_secs(20),
    answer: Duration::from_secs(10),
};

/// All servers that were called lately, by address.
#[derive(Debug)]
pub(super) struct Servers {
    limit: RateLimit,
    ca_files: Vec<PathBuf>,
    user_agent: HeaderValue,
    known: Mutex<HashMap<String, Arc<Server>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A server.
#[derive(Debug)]
pub(super) struct Server {
    address: Address,
    ca_files: Vec<PathBuf>,
    user_agent: HeaderValue,
    turns: Turns,
    /// Held while it is dialled, so that all who wait share one attempt.
    link: AsyncMutex<Link>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

enum Link {
    Disconnected,
    Connected(SendRequest),
    /// It could not be reached then, for this reason.
    Unreachable(Instant, Arc<DialError>),
}

/// Why there is no connection to a server.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("no connection within {DIAL_TIMEOUT:?}")]
    Timeout,
    #[error("{}: {error}", path.display())]
    Socket {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Handshake(#[from] h2::Error),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "Disconnected",
            Self::Connected(_) => "Connected",
            Self::Unreachable(..) => "Unreachable",
        })
    }
}

impl Servers {
    pub(super) fn new(
        limit: RateLimit,
        ca_files: Vec<PathBuf>,
        user_agent: HeaderValue,
        stop: CancellationToken,
    ) -> Self {
        Self {
            limit,
            ca_files,
            user_agent,
            known: Mutex::default(),
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// The server at an address.
    pub(super) fn at(&self, info: &GitalyInfo, rpc: &Rpc<'_>) -> Result<Arc<Server>, GitalyError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = known.get(&info.address) {
            return Ok(server.clone());
        }
        let address = Address::parse(&info.address).map_err(|why| {
            rpc.unavailable(&format!("the address {:?} of Gitaly: {why}", info.address))
        })?;
        if known.len() >= SERVERS_MAX {
            known.retain(|_, server| Arc::strong_count(server) > 1);
        }
        let name = format!("gitaly_client_{}", info.address);
        let rate = self.limit.refill_rate_per_second;
        let metrics = Limiter::passing(&name, "{refill/s}", rate);
        let server = Arc::new(Server {
            address,
            ca_files: self.ca_files.clone(),
            user_agent: self.user_agent.clone(),
            turns: Turns::new(self.limit, metrics),
            link: AsyncMutex::new(Link::Disconnected),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        });
        known.insert(info.address.clone(), server.clone());
        Ok(server)
    }
}

impl Server {
    /// Waits for a call's turn at this server.
    pub(super) async fn turn(&self, rpc: &Rpc<'_>) -> Result<(), GitalyError> {
        self.turns.wait(rpc).await
    }

    /// A connection that carries the credentials.
    pub(super) async fn channel(
        &self,
        info: &GitalyInfo,
        rpc: &Rpc<'_>,
    ) -> Result<Channel, GitalyError> {
        let send = self
            .connected()
            .await
            .map_err(|error| rpc.unavailable(&error.to_string()))?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let metadata = credentials::metadata(info, self.user_agent.clone(), now.as_secs());
        Ok(Channel::new(send, self.origin(), metadata))
    }

    async fn connected(&self) -> Result<SendRequest, Arc<DialError>> {
        let mut link = self.link.lock().await;
        match &*link {
            Link::Connected(send) => {
                // A connection that is going away gives no more streams.
                if let Ok(ready) = send.clone().ready().await {
                    return Ok(ready);
                }
            }
            Link::Unreachable(since, error) if since.elapsed() < RECONNECT_BACKOFF => {
                return Err(error.clone());
            }
            Link::Disconnected | Link::Unreachable(..) => {}
        }
        let opened = timeout(DIAL_TIMEOUT, self.open()).await;
        match opened.unwrap_or(Err(DialError::Timeout)) {
            Ok(send) => {
                *link = Link::Connected(send.clone());
                Ok(send)
            }
            Err(error) => {
                let error = Arc::new(error);
                *link = Link::Unreachable(Instant::now(), error.clone());
                Err(error)
            }
        }
    }

    async fn open(&self) -> Result<SendRequest, DialError> {
        let mut stream = self.dial().await?;
        let heard = stream.heard();
        let handshake = runtime::grpc::client_settings().handshake(stream).await;
        let (send, mut connection) = handshake?;
        let pings = connection
            .ping_pong()
            .expect("nobody else has taken it from a new connection");
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                ended = connection => tracing::debug!(?ended, "Gitaly connection closed"),
                () = unresponsive(pings, heard, KEEPALIVE, || false) => {
                    tracing::warn!("HTTP/2 keepalive timed out; closing Gitaly connection");
                }
                () = stop.cancelled() => {}
            }
        });
        Ok(send)
    }

    async fn dial(&self) -> Result<ByteStream, DialError> {
        let target = match &self.address {
            Address::Unix(path) => {
                let socket = UnixStream::connect(path).await;
                let socket = socket.map_err(|error| DialError::Socket {
                    path: path.clone(),
                    error,
                })?;
                return Ok(ByteStream::boxed(socket));
            }
            Address::Tcp(target) => target,
        };
        let tls = || {
            ClientTls::load(&ClientTlsOptions {
                ca_files: self.ca_files.clone(),
                ..ClientTlsOptions::default()
            })
        };
        let tls = target.scheme().is_tls().then(tls).transpose();
        let options = ConnectOptions {
            tls: tls?,
            user_agent: String::from_utf8_lossy(self.user_agent.as_bytes()).into_owned(),
            timeout: DIAL_TIMEOUT,
            ..ConnectOptions::default()
        };
        Ok(connect(target, &options).await?.io)
    }

    fn origin(&self) -> Uri {
        let (scheme, authority) = match &self.address {
            Address::Tcp(target) if target.scheme().is_tls() => ("https", target.host_and_port()),
            Address::Tcp(target) => ("http", target.host_and_port()),
            Address::Unix(_) => ("http", "localhost".to_owned()),
        };
        let origin = format!("{scheme}://{authority}/").parse();
        origin.expect("the host of a target is part of a URI")
    }
}
