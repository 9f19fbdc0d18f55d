//! Where connections to kas come from: the agent dials, or it waits to be dialled.

use std::{fmt, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Uri, header};
use runtime::{
    connect::ConnectError,
    grpc::{self, Pings},
    io::ByteStream,
};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Connection, Dialer,
    connection::Parts,
    driver::{self, PACE},
};
use crate::version;

/// Lines where kas dials: one for each replica that may hold a connection
/// while the agent moves from one to another, and for one that died unnoticed.
const RECEIVING: usize = 4;
/// Those who came in and are not attended to yet.
const WAITING: usize = 4;
/// How long kas may take to read what begins an HTTP/2 connection.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Does a connection's work, and ends when the connection has.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Gives connections.
#[derive(Debug)]
pub(crate) enum Source {
    /// The agent dials kas.
    Dial(Box<Dialer>),
    /// kas dials the agent.
    Receive(Arrivals),
}

/// Byte streams of kas that has dialled the agent and proved who it is.
#[derive(Debug)]
pub(crate) struct Arrivals(Mutex<mpsc::Receiver<ByteStream>>);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(dialer) => dialer.address().fmt(f),
            Self::Receive(_) => f.write_str("whichever kas dials this agent"),
        }
    }
}

impl Source {
    /// How many lines to keep, where so many are wanted for dialling.
    pub(super) fn lines(&self, dialling: usize) -> usize {
        match self {
            Self::Dial(_) => dialling.max(1),
            Self::Receive(_) => RECEIVING,
        }
    }

    /// Whether the next connection depends on the agent.
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
            Self::Receive(arrivals) => Ok(arrivals.next(&authorization).await),
        }
    }
}

impl Arrivals {
    /// With the way by which they come.
    pub(crate) fn new() -> (mpsc::Sender<ByteStream>, Self) {
        let (sender, arrivals) = mpsc::channel(WAITING);
        (sender, Self(Mutex::new(arrivals)))
    }

    async fn next(&self, authorization: &HeaderValue) -> (Connection, Driver) {
        loop {
            let arrived = self.0.lock().await.recv().await;
            let Some(io) = arrived else {
                // The agent stops.
                return std::future::pending().await;
            };
            let origin = Uri::from_static("http://kas/");
            let spoken = speak(io, origin, metadata(), authorization.clone(), None);
            match tokio::time::timeout(HANDSHAKE, spoken).await {
                Ok(Ok(connection)) => return connection,
                Ok(Err(error)) => tracing::info!(%error, "kas dialled and left at once"),
                Err(_) => tracing::info!("kas dialled and then read nothing"),
            }
        }
    }
}

/// Headers of all requests.
pub(super) fn metadata() -> HeaderMap {
    let agent = HeaderValue::from_str(&version::user_agent());
    let agent = agent.expect("the version is plain text");
    HeaderMap::from_iter([(header::USER_AGENT, agent)])
}

/// Begins HTTP/2 on a byte stream at whose other end kas is the server.
pub(super) async fn speak(
    mut io: ByteStream,
    origin: Uri,
    mut metadata: HeaderMap,
    authorization: HeaderValue,
    peer: Option<SocketAddr>,
) -> Result<(Connection, Driver), h2::Error> {
    let heard = io.heard();
    let (send, mut http2) = grpc::client_settings().handshake(io).await?;
    metadata.insert(header::AUTHORIZATION, authorization);
    let parts = Parts {
        send: send.clone(),
        origin,
        metadata,
        left: CancellationToken::new(),
        told: Arc::default(),
        peer,
    };
    let end = driver::End {
        left: parts.left.clone(),
        told: parts.told.clone(),
    };
    let pings = http2.ping_pong();
    let pings = pings.map(|pings| Pings::new(pings, heard, PACE, 1.0));
    let driver = driver::drive(http2, send, pings, end);
    Ok((Connection::new(parts), Box::pin(driver)))
}
