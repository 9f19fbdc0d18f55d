//! One connection to a peer: dialled, authenticated, driven to its end.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use cluster_state::urls;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use proto::frame::Frame;
use runtime::{
    grpc::{ProbeTimeouts, SendRequest, unresponsive},
    io::{ByteStream, Heard},
};
use tokio_util::sync::CancellationToken;

use super::{Dial, Handle, Peer, state::ConnectionId};
use crate::peers::Credentials;

/// How long dialling a peer may take, with a ping and authentication.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one of a peer's URLs may be silent before the next is tried too.
const NEXT_URL_DELAY: Duration = Duration::from_millis(100);
/// Keepalive: a peer that is frozen or cut off is found out within three seconds
/// of its last sign of life while requests wait for it.
const KEEPALIVE: ProbeTimeouts = ProbeTimeouts {
    busy: Duration::from_millis(750),
    idle: Duration::from_secs(15),
    answer: Duration::from_millis(1500),
};
/// How often a connection checks whether it is still needed.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(5);

type Connection = h2::client::Connection<ByteStream, Frame>;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By this replica's decision, after the peer's GOAWAY, or since the peer was silent.
    Orderly,
    /// Without notice: the peer's process may have ended.
    Broken,
}

/// An authenticated connection.
pub(super) struct PeerConnection {
    pub(super) handle: Handle,
    connection: Connection,
    pings: h2::PingPong,
    heard: Heard,
}

/// Why there is no connection to a peer.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// Nothing accepts connections at its address.
    #[error(transparent)]
    Connect(#[from] std::io::Error),
    /// HTTP/2 failed.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// The other side closed the connection.
    #[error("it closed the connection at once")]
    Closed,
    /// No answer in time.
    #[error("it did not answer within {0:?}")]
    Timeout(Duration),
    /// The other side failed the challenge.
    #[error(
        "what answers there does not prove that it is the replica of this URL: it has another \
         private_api.listen.authentication_secret_file, is of another version, or is not a replica"
    )]
    NotAReplica,
    /// It publishes nothing that could be dialled.
    #[error("it has no URL")]
    NoUrl,
    /// This replica has ended meanwhile.
    #[error("this replica is shutting down")]
    Leaving,
}

/// Dials a peer at the URLs that it has `published`, and checks that it answers and is the replica.
pub(super) async fn open(
    dial: &Dial,
    credentials: &dyn Credentials,
    published: &str,
) -> Result<PeerConnection, DialError> {
    let opened = tokio::time::timeout(DIAL_TIMEOUT, first(dial, credentials, published)).await;
    opened.unwrap_or(Err(DialError::Timeout(DIAL_TIMEOUT)))
}

/// The first of the URLs at which the replica answers. At another there may be nobody, or from here somebody else,
/// who does not prove to be it: machines have addresses that mean themselves on others.
async fn first(
    dial: &Dial,
    credentials: &dyn Credentials,
    published: &str,
) -> Result<PeerConnection, DialError> {
    let mut untried = urls(published).peekable();
    let mut dialling = FuturesUnordered::new();
    let mut failed = DialError::NoUrl;
    loop {
        match untried.next() {
            Some(url) => dialling.push(handshake(dial, credentials, published, url)),
            None if dialling.is_empty() => return Err(failed),
            None => {}
        }
        let more = untried.peek().is_some();
        tokio::select! {
            biased;
            Some(opened) = dialling.next() => match opened {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = error,
            },
            () = tokio::time::sleep(NEXT_URL_DELAY), if more => {}
        }
    }
}

async fn handshake(
    dial: &Dial,
    credentials: &dyn Credentials,
    published: &str,
    url: &str,
) -> Result<PeerConnection, DialError> {
    let mut stream = dial(url.to_owned()).await?;
    let heard = stream.heard();
    let (send, mut connection) = runtime::grpc::client_settings().handshake(stream).await?;
    let mut pings = connection
        .ping_pong()
        .expect("nobody else has taken it from a new connection");
    // What accepts a connection may be a frozen process, or a load balancer
    // without a backend.
    tokio::select! {
        biased;
        pong = pings.ping(h2::Ping::opaque()) => pong.map(drop)?,
        ended = &mut connection => {
            ended?;
            return Err(DialError::Closed);
        }
    }
    let audience = tokio::select! {
        biased;
        audience = challenge(&send, credentials, published) => audience?,
        ended = &mut connection => {
            ended?;
            return Err(DialError::Closed);
        }
    };
    Ok(PeerConnection {
        handle: Handle { send, audience },
        connection,
        pings,
        heard,
    })
}

/// The audience of credentials on the connection, once the other side has
/// proved to be a replica.
async fn challenge(
    send: &SendRequest,
    credentials: &dyn Credentials,
    url: &str,
) -> Result<Arc<str>, DialError> {
    let Some(challenge) = credentials.challenge(url) else {
        return Ok("".into());
    };
    let mut send = send.clone().ready().await?;
    let (answer, _) = send.send_request(challenge.request(), true)?;
    let answer = answer.await?;
    let audience = challenge.verify(answer.headers());
    audience.map(Arc::from).ok_or(DialError::NotAReplica)
}

impl PeerConnection {
    /// Drives the connection, and removes it from the pool as soon as it takes no
    /// new requests.
    pub(super) async fn drive(
        self,
        peer: &Peer,
        id: ConnectionId,
        stop: &CancellationToken,
    ) -> End {
        let mut driver = Driver {
            connection: self.connection,
            probe: Some(self.handle.send),
            peer,
            id,
        };
        let silence = unresponsive(self.pings, self.heard, KEEPALIVE, || peer.is_busy(id));
        let mut silence = std::pin::pin!(silence);
        let mut idle_checks = tokio::time::interval(IDLE_CHECK_INTERVAL);
        loop {
            tokio::select! {
                biased;
                (end, result) = &mut driver => {
                    tracing::debug!(?result, "connection to a peer ended");
                    peer.remove(id, None);
                    return end;
                }
                () = &mut silence => {
                    tracing::warn!("HTTP/2 keepalive timed out; closing peer connection");
                    peer.remove(id, Some("it stopped answering"));
                    return End::Orderly;
                }
                _ = idle_checks.tick() => driver.close_if_idle(),
                () = stop.cancelled() => {
                    peer.remove(id, None);
                    return End::Orderly;
                }
            }
        }
    }
}

/// Drives a connection, and notices when it takes no new requests.
struct Driver<'a> {
    connection: Connection,
    /// Fails once the peer takes no new requests. Keeps the connection open.
    probe: Option<SendRequest>,
    peer: &'a Peer,
    id: ConnectionId,
}

impl Driver<'_> {
    /// Closes the connection if it has been idle for long.
    fn close_if_idle(&mut self) {
        if self.peer.retire(self.id) {
            self.probe = None;
        }
    }
}

impl Future for Driver<'_> {
    type Output = (End, Result<(), h2::Error>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let end = if this.probe.is_some() {
            End::Broken
        } else {
            End::Orderly
        };
        let ended = Pin::new(&mut this.connection).poll(cx);
        if let Some(probe) = &mut this.probe
            && let Poll::Ready(Err(_)) = probe.poll_ready(cx)
        {
            this.probe = None;
            this.peer.remove(this.id, None);
        }
        ended.map(|ended| (end, ended))
    }
}
