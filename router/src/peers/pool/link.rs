//! One connection to a peer: dialled, checked, driven to its end.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use proto::frame::Frame;
use runtime::{
    grpc::{Patience, SendRequest, silence},
    io::{ByteStream, Heard},
};
use tokio_util::sync::CancellationToken;

use super::{Dial, Handle, Peer, state::LinkId};
use crate::peers::Credentials;

/// What is said of whoever answers at a peer's URL and is none.
const NO_PEER: &str = "what answers there does not prove that it is the replica of this URL: it has another \
     private_api.listen.authentication_secret_file, is of another version, or is none";
/// How long dialling a peer may take, until it has answered a ping and proved who it is.
const DIAL: Duration = Duration::from_secs(3);
/// A peer that is frozen or cut off is found out within three seconds of its
/// last sign of life, when somebody waits for it.
const PATIENCE: Patience = Patience {
    busy: Duration::from_millis(750),
    idle: Duration::from_secs(15),
    answer: Duration::from_millis(1500),
};
/// How often it is looked whether the connection is still needed.
const LOOK: Duration = Duration::from_secs(5);

type Connection = h2::client::Connection<ByteStream, Frame>;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// One of both wanted it so, or the peer was silent.
    Orderly,
    /// Nobody had said anything before: the peer's process may have ended.
    Broke,
}

/// A connection that has carried a ping there and back, to a replica that has proved to be one.
pub(super) struct Link {
    pub(super) handle: Handle,
    connection: Connection,
    pings: h2::PingPong,
    heard: Heard,
}

/// Dials; the reason is for the one who looks at the peer.
pub(super) async fn open(
    dial: &Dial,
    credentials: &dyn Credentials,
    url: &str,
) -> Result<Link, String> {
    let opened = tokio::time::timeout(DIAL, handshake(dial, credentials, url)).await;
    opened.unwrap_or_else(|_| Err(format!("it did not answer within {DIAL:?}")))
}

async fn handshake(dial: &Dial, credentials: &dyn Credentials, url: &str) -> Result<Link, String> {
    let text = |error: h2::Error| error.to_string();
    let mut stream = dial(url.to_owned())
        .await
        .map_err(|error| error.to_string())?;
    let heard = stream.heard();
    let (send, mut connection) = runtime::grpc::client_settings()
        .handshake(stream)
        .await
        .map_err(text)?;
    let mut pings = connection
        .ping_pong()
        .expect("nobody else has taken it from a new connection");
    // What accepts a connection may be a frozen process, or a load balancer
    // with nobody behind it.
    tokio::select! {
        biased;
        pong = pings.ping(h2::Ping::opaque()) => pong.map(drop).map_err(text)?,
        ended = &mut connection => {
            ended.map_err(text)?;
            return Err("it closed the connection at once".to_owned());
        }
    }
    let audience = tokio::select! {
        biased;
        greeted = greet(&send, credentials, url) => greeted?,
        ended = &mut connection => {
            ended.map_err(text)?;
            return Err("it closed the connection at once".to_owned());
        }
    };
    Ok(Link {
        handle: Handle { send, audience },
        connection,
        pings,
        heard,
    })
}

/// For whom credentials are on the connection, once whoever answers has proved to be a replica.
async fn greet(
    send: &SendRequest,
    credentials: &dyn Credentials,
    url: &str,
) -> Result<Arc<str>, String> {
    let Some(greeting) = credentials.greet(url) else {
        return Ok("".into());
    };
    let text = |error: h2::Error| error.to_string();
    let mut send = send.clone().ready().await.map_err(text)?;
    let (answer, _) = send.send_request(greeting.question(), true).map_err(text)?;
    let answer = answer.await.map_err(text)?;
    let audience = greeting.audience(answer.headers());
    audience.map(Arc::from).ok_or_else(|| NO_PEER.to_owned())
}

impl Link {
    /// Drives the connection, and takes it out of the pool as soon as it is of
    /// no use to new calls.
    pub(super) async fn drive(self, peer: &Peer, id: LinkId, stop: &CancellationToken) -> End {
        let mut driver = Driver {
            connection: self.connection,
            probe: Some(self.handle.send),
            peer,
            id,
        };
        let silence = silence(self.pings, self.heard, PATIENCE, || peer.is_busy(id));
        let mut silence = std::pin::pin!(silence);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                biased;
                (end, result) = &mut driver => {
                    tracing::debug!(url = peer.url, ?result, "a connection to a peer ended");
                    peer.leave(id, None);
                    return end;
                }
                () = &mut silence => {
                    tracing::warn!(url = peer.url, "a peer stopped answering; its connection is closed");
                    peer.leave(id, Some("it stopped answering"));
                    return End::Orderly;
                }
                _ = look.tick() => driver.look(),
                () = stop.cancelled() => {
                    peer.leave(id, None);
                    return End::Orderly;
                }
            }
        }
    }
}

/// A connection that notices with each step whether new calls may use it.
struct Driver<'a> {
    connection: Connection,
    /// Fails once the peer takes no new calls; held, it keeps the connection.
    probe: Option<SendRequest>,
    peer: &'a Peer,
    id: LinkId,
}

impl Driver<'_> {
    /// Lets a connection go that is not needed any more.
    fn look(&mut self) {
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
            End::Broke
        } else {
            End::Orderly
        };
        let ended = Pin::new(&mut this.connection).poll(cx);
        if let Some(probe) = &mut this.probe
            && let Poll::Ready(Err(_)) = probe.poll_ready(cx)
        {
            this.probe = None;
            this.peer.leave(this.id, None);
        }
        ended.map(|ended| (end, ended))
    }
}
