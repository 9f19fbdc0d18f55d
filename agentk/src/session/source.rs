//! Where connections to kas come from: the agent dials, or it waits to be dialled.

use std::{fmt, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Uri, header};
use runtime::{
    connect::ConnectError,
    grpc::{self, Keepalive},
    io::ByteStream,
    telemetry::Causes,
};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Connection, Dialer,
    connection::Parts,
    driver::{self, KEEPALIVE},
};
use crate::version;

/// Number of lines where kas dials: one for each replica that may hold a connection
/// while the agent moves from one to another, and for one that died unnoticed.
const RECEPTIVE_LINES: usize = 4;
/// Incoming connections that wait for a line.
const MAX_INCOMING: usize = 4;
/// How long kas may take for the HTTP/2 preface.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Drives a connection; completes when the connection has ended.
pub(crate) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where connections come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The agent dials kas.
    Dial(Box<Dialer>),
    /// kas dials the agent.
    Receive(IncomingConnections),
}

/// Authenticated byte streams from kas, which dialled the agent.
#[derive(Debug)]
pub(crate) struct IncomingConnections(Mutex<mpsc::Receiver<ByteStream>>);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(dialer) => dialer.address().fmt(f),
            Self::Receive(_) => f.write_str("none (kas dials this agent)"),
        }
    }
}

impl Source {
    /// The number of lines, given the number that is wanted for dialling.
    pub(super) fn lines(&self, dialling: usize) -> usize {
        match self {
            Self::Dial(_) => dialling.max(1),
            Self::Receive(_) => RECEPTIVE_LINES,
        }
    }

    /// Whether the agent dials.
    pub(super) fn dials(&self) -> bool {
        matches!(self, Self::Dial(_))
    }

    /// The next connection. Cancel-safe where kas dials.
    pub(super) async fn connection(
        &self,
        authorization: HeaderValue,
        avoid: Vec<SocketAddr>,
    ) -> Result<(Connection, Driver), ConnectError> {
        match self {
            Self::Dial(dialer) => dialer.dial(authorization, avoid).await,
            Self::Receive(incoming) => Ok(incoming.next(&authorization).await),
        }
    }
}

impl IncomingConnections {
    /// With the sender through which they come.
    pub(crate) fn new() -> (mpsc::Sender<ByteStream>, Self) {
        let (sender, incoming) = mpsc::channel(MAX_INCOMING);
        (sender, Self(Mutex::new(incoming)))
    }

    async fn next(&self, authorization: &HeaderValue) -> (Connection, Driver) {
        loop {
            let arrived = self.0.lock().await.recv().await;
            let Some(io) = arrived else {
                // The agent stops.
                return std::future::pending().await;
            };
            let origin = Uri::from_static("http://kas/");
            let connection = handshake(io, origin, metadata(), authorization.clone(), None);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, connection).await {
                Ok(Ok(connection)) => return connection,
                Ok(Err(error)) => {
                    tracing::info!(
                        error = %Causes(&error),
                        "connection from kas broke during the HTTP/2 handshake"
                    )
                }
                Err(_) => {
                    tracing::info!("connection from kas timed out during the HTTP/2 handshake")
                }
            }
        }
    }
}

/// Headers of all requests.
pub(super) fn metadata() -> HeaderMap {
    HeaderMap::from_iter([(header::USER_AGENT, version::USER_AGENT)])
}

/// Begins HTTP/2 as the client on a byte stream to kas.
pub(super) async fn handshake(
    mut io: ByteStream,
    origin: Uri,
    mut metadata: HeaderMap,
    authorization: HeaderValue,
    remote_addr: Option<SocketAddr>,
) -> Result<(Connection, Driver), h2::Error> {
    let heard = io.heard();
    let (send, mut http2) = grpc::client_settings().handshake(io).await?;
    metadata.insert(header::AUTHORIZATION, authorization);
    let parts = Parts {
        send: send.clone(),
        origin,
        metadata,
        draining: CancellationToken::new(),
        goaway: Arc::default(),
        remote_addr,
    };
    let signal = driver::DrainSignal {
        draining: parts.draining.clone(),
        goaway: parts.goaway.clone(),
    };
    let pings = http2.ping_pong();
    let pings = pings.map(|pings| Keepalive::new(pings, heard, KEEPALIVE, 1.0));
    let driver = driver::drive(http2, send, pings, signal);
    Ok((Connection::new(parts), Box::pin(driver)))
}
