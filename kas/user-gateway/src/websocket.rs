//! WebSockets that kas speaks itself: the handshake, and text messages both ways.

use std::{io, time::Duration};

use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use runtime::websocket::{
    handshake::accept_key,
    messages::{self, CloseCode, Incoming, Message, ReadError},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};

use crate::{failure::Failure, route::UserRequest, scope::Scope, websocket_tokens};

/// How often clients are pinged: more often than load balancers give up silent connections.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(45);
/// How long a client may leave a write waiting.
pub(crate) const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the switch of protocols may take.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);

/// What is read of a client that speaks WebSocket.
pub(crate) type Reader = ReadHalf<TokioIo<hyper::upgrade::Upgraded>>;
/// Where to write to it.
pub(crate) type Writer = WriteHalf<TokioIo<hyper::upgrade::Upgraded>>;

/// A valid handshake.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// Headers of the answer.
    pub(crate) answer: HeaderMap,
    /// The connection behind the answer.
    pub(crate) upgrade: OnUpgrade,
}

impl Handshake {
    /// Takes the handshake out of a request; nothing where it is none.
    pub(crate) fn of(request: &mut UserRequest) -> Option<Self> {
        let answer = answer(&request.head)?;
        let upgrade = request.on_upgrade.take()?;
        Some(Self { answer, upgrade })
    }

    /// The handshake of a subprotocol, which the client must offer.
    ///
    /// # Errors
    /// 426 where it is no handshake, 400 without the subprotocol.
    pub(crate) fn with_subprotocol(
        request: &mut UserRequest,
        subprotocol: &'static str,
    ) -> Result<Self, Failure> {
        let mut handshake = Self::of(request).ok_or_else(|| {
            let message = format!(
                "this path speaks WebSocket ({subprotocol}) over HTTP/1.1: the request is not the handshake of one"
            );
            Failure::new(StatusCode::UPGRADE_REQUIRED, message)
        })?;
        if !websocket_tokens::subprotocols(&request.head.headers).any(|it| it == subprotocol) {
            let message = format!(
                "Bad request: the WebSocket subprotocol {subprotocol} must be among those offered"
            );
            return Err(Failure::new(StatusCode::BAD_REQUEST, message));
        }
        let value = HeaderValue::from_static(subprotocol);
        // It has three lines.
        let _ = (handshake.answer).try_insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        Ok(handshake)
    }
}

/// What answers a valid handshake.
fn answer(head: &Parts) -> Option<HeaderMap> {
    let text = |name: HeaderName| head.headers.get(name).and_then(|it| it.to_str().ok());
    let is = |name, value: &str| text(name).is_some_and(|it| it.eq_ignore_ascii_case(value));
    let is_valid = head.method == Method::GET
        && is(header::UPGRADE, "websocket")
        && is(header::SEC_WEBSOCKET_VERSION, "13");
    let key = text(header::SEC_WEBSOCKET_KEY).filter(|_| is_valid)?;
    let accept = HeaderValue::from_str(&accept_key(key)).ok()?;
    Some(HeaderMap::from_iter([
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ]))
}

/// Takes over the client's connection once the answer is written; nothing where the client left, which the scope
/// notes.
pub(crate) async fn take_over(upgrade: OnUpgrade, scope: &mut Scope) -> Option<(Reader, Writer)> {
    scope.cut = true;
    match tokio::time::timeout(SWITCH_TIMEOUT, upgrade).await {
        Ok(Ok(io)) => return Some(tokio::io::split(TokioIo::new(io))),
        Ok(Err(error)) => scope.left(format!("the client left before the upgrade: {error}")),
        Err(_) => scope.left("the client did not take the upgrade in time"),
    }
    None
}

/// Messages of a client, of at most `limit` bytes each. Its `next` is cancel-safe. Ends behind an error.
pub(crate) fn heard<R: AsyncRead + Unpin>(
    incoming: Incoming<R>,
    limit: usize,
) -> impl Stream<Item = Result<Message, ReadError>> {
    stream::unfold(Some(incoming), move |incoming| async move {
        let mut incoming = incoming?;
        let next = incoming.next(limit).await;
        let incoming = next.is_ok().then_some(incoming);
        Some((next, incoming))
    })
}

/// What is written to a client.
#[derive(Debug)]
pub(crate) enum Writing {
    /// A text.
    Text(Vec<u8>),
    /// The answer to a ping.
    Pong(Vec<u8>),
    /// A ping.
    Ping,
}

impl Writing {
    /// Writes it, as long as the client takes it; says whether it did.
    pub(crate) async fn run(&self, io: &mut (impl AsyncWrite + Unpin)) -> bool {
        let writing = async {
            match self {
                Self::Text(text) => messages::text(io, text).await,
                Self::Pong(bytes) => messages::pong(io, bytes).await,
                Self::Ping => messages::ping(io).await,
            }
        };
        in_time(writing).await
    }
}

/// Ends it, and says why; says whether the client took that.
pub(crate) async fn close(
    io: &mut (impl AsyncWrite + Unpin),
    code: CloseCode,
    reason: &str,
) -> bool {
    in_time(messages::close(io, code, reason)).await
}

async fn in_time(writing: impl Future<Output = io::Result<()>>) -> bool {
    let written = tokio::time::timeout(UNREAD_TIMEOUT, writing).await;
    matches!(written, Ok(Ok(())))
}
