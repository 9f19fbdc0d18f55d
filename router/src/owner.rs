//! Serves peers' requests for tunnels: finds a tunnel of this replica, and relays
//! the call.
//!
//! Messages pass through as they came: those of the agent's response have the
//! same field numbers on both streams, those of the request are wrapped once.

mod relay;

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use proto::{
    agent::kas::{GatewayKasResponse, gateway_kas_response},
    frame::{Deframer, Encoding, Frame, Payload},
};
use runtime::{
    drain::Drain,
    grpc::{ReceiveError, SendResponse, SendStream, poll_message, send_frame},
    traces::{Side, TraceParent, TraceSpan},
};
use tonic::Status;
use tracing::Instrument as _;

use crate::{
    call::Call, error::Broken, opening::Opening, peers::TunnelQuery, reader::Reader,
    refusal::Refusal, registry::Registry, tunnel::Tunnel,
};
use relay::Relay;

/// How long a peer may keep a tunnel without using it.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of messages that are written with the call's head; the rest is relayed
/// one by one, uncopied.
const FIRST_WRITE_BYTES: usize = 16 << 10;

/// Whether the peer makes the call again elsewhere whenever it breaks (see [`Opening::moves`]).
#[must_use]
pub fn moves<B>(request: &Request<B>) -> bool {
    TunnelQuery::is_moving(request.headers())
}

/// Serves one request of an authenticated peer, to its end. A peer that still
/// waits for a tunnel when `leaving` starts is refused and looks elsewhere, and
/// so is one whose call [moves](Opening::moves) at the last call.
pub async fn serve(
    registry: &Arc<Registry>,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
    leaving: &Drain,
) {
    let query = match TunnelQuery::read(&request) {
        Ok(query) => query,
        Err(status) => {
            tracing::debug!(error = %status, "malformed request of a peer");
            // Fails only when the peer is gone.
            let _ = runtime::grpc::refuse(respond, &status);
            return;
        }
    };
    let span = tracing::debug_span!(
        "call",
        request_id = query.request_id(),
        agent.id = query.agent.0,
        method = &*query.need.method,
    );
    answer(registry, query, request, respond, leaving)
        .instrument(span)
        .await;
}

async fn answer(
    registry: &Arc<Registry>,
    mut query: TunnelQuery,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse,
    leaving: &Drain,
) {
    tracing::debug!("serving a call for a peer");
    let parent = TraceParent::of_metadata(&query.meta);
    let mut trace = TraceSpan::follow("forwarded call", Side::Server, &parent);
    trace.set("agent.id", query.agent.0);
    trace.propagate_in_metadata(&mut query.meta);
    let Ok(mut send) = respond.send_response(runtime::grpc::response_headers(), false) else {
        return;
    };
    let peer = Incoming {
        recv: request.into_body(),
        deframer: Deframer::new(Encoding::Identity),
    };
    let status = match relay(registry, query, peer, &mut send, leaving).await {
        Ok(()) => Status::ok(""),
        Err(Ended::Peer) => {
            tracing::debug!("the peer cancelled the call");
            return;
        }
        Err(Ended::PeerLost) => {
            tracing::debug!("the connection of the peer broke");
            return;
        }
        Err(Ended::Call(broken)) => broken.for_peer(),
        Err(Ended::Refused(status)) => status,
    };
    let error = Some(status.message()).filter(|text| !text.is_empty());
    if let Some(error) = error {
        trace.fail(error);
    }
    tracing::debug!(code = ?status.code(), error, "call for a peer ended");
    // Fails only when the peer is gone.
    let _ = send.send_trailers(runtime::grpc::trailers(&status));
}

/// Why a relay ended early.
enum Ended {
    /// The peer cancelled the call.
    Peer,
    /// The connection to the peer broke.
    PeerLost,
    /// The tunnel broke.
    Call(Broken),
    /// The request was refused.
    Refused(Status),
}

impl Ended {
    fn leaving() -> Self {
        Self::Refused(Status::unavailable("this replica is shutting down"))
    }
}

impl From<ReceiveError> for Ended {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Stream(error) => error.into(),
            ReceiveError::Frame(error) => {
                Self::Refused(Status::invalid_argument(error.to_string()))
            }
        }
    }
}

impl From<h2::Error> for Ended {
    fn from(error: h2::Error) -> Self {
        if error.is_reset() && error.reason() == Some(h2::Reason::CANCEL) {
            return Self::Peer;
        }
        Self::PeerLost
    }
}

async fn relay(
    registry: &Arc<Registry>,
    query: TunnelQuery,
    mut peer: Incoming,
    send: &mut SendStream,
    leaving: &Drain,
) -> Result<(), Ended> {
    let Some(tunnel) = find_tunnel(registry, &query, &mut peer, send, leaving).await? else {
        return Ok(());
    };
    send_reply(send, ready(&tunnel, query.begins)).await?;
    // The first message only says to begin; without it the tunnel is put back.
    let Ok(begin) = tokio::time::timeout(BEGIN_TIMEOUT, peer.message()).await else {
        return Err(Ended::Refused(Status::deadline_exceeded(
            "the peer did not use the tunnel that was reserved for it",
        )));
    };
    if begin?.is_none() {
        return Ok(());
    }
    let (messages, close) = peer.received()?;
    let opening = Opening {
        method: query.need.method,
        meta: query.meta,
        messages,
        close,
        safe: query.begins,
        moves: query.moves,
    };
    // A failure here means that the tunnel was dead: the agent has seen nothing.
    let begun = Call::through_tunnel(tunnel, &opening);
    let mut call = Reader::new(begun.map_err(|_| Ended::Call(Broken::Unused))?);
    let relayed = Relay {
        call: &mut call,
        agent: query.agent,
        caller: &query.need.caller,
        readers: registry.readers(),
        peer: &mut peer,
        send,
        to_agent: None,
        to_peer: None,
        peer_sends: !close,
    };
    let ended = tokio::select! {
        biased;
        ended = relayed.run() => ended,
        // Calls that continue elsewhere are ended before the grace period is over.
        () = leaving.last_called(), if query.moves => Err(Ended::leaving()),
    };
    if matches!(ended, Err(Ended::PeerLost)) {
        // A call that is gone needs to hear nothing.
        let _ = call.with(Call::lose);
    }
    ended
}

async fn find_tunnel(
    registry: &Arc<Registry>,
    query: &TunnelQuery,
    peer: &mut Incoming,
    send: &mut SendStream,
    leaving: &Drain,
) -> Result<Option<Tunnel>, Ended> {
    if let Some(tunnel) = registry.take(query.agent, &query.need) {
        return Ok(Some(tunnel));
    }
    if query.begins {
        // The call was to begin at once; the peer asks again without that.
        send_reply(
            send,
            gateway_kas_response::Msg::NoTunnel(Default::default()),
        )
        .await?;
        return Ok(None);
    }
    let waiting = registry
        .wait(query.agent, &query.need)
        .map_err(|_| Ended::Refused(Refusal::TooManyWaiting.for_peer()))?;
    send_reply(
        send,
        gateway_kas_response::Msg::NoTunnel(Default::default()),
    )
    .await?;
    tokio::select! {
        biased;
        tunnel = waiting.tunnel() => Ok(tunnel),
        // The peer found a tunnel elsewhere, or gave up.
        _ = peer.message() => Ok(None),
        () = leaving.wait() => Err(Ended::leaving()),
        refusal = registry.persistent_refusal(query.agent, &query.need) => {
            Err(Ended::Refused(refusal.for_peer()))
        }
    }
}

/// A call that begins at once may be made again, and nobody asks for its answer.
fn ready(tunnel: &Tunnel, begins: bool) -> gateway_kas_response::Msg {
    let answers = (!begins).then(|| tunnel.offer().answers()).flatten();
    gateway_kas_response::Msg::TunnelReady(gateway_kas_response::TunnelReady {
        answers: answers.map_or_else(String::new, |method| method.to_string()),
    })
}

async fn send_reply(send: &mut SendStream, msg: gateway_kas_response::Msg) -> Result<(), Ended> {
    Ok(send_frame(send, Frame::message(&GatewayKasResponse { msg: Some(msg) })).await?)
}

/// What the peer sends.
struct Incoming {
    recv: h2::RecvStream,
    deframer: Deframer,
}

impl Incoming {
    /// The next message, or `None` at the half-close. Cancel-safe.
    async fn message(&mut self) -> Result<Option<Bytes>, Ended> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// The messages that were received already, up to a size, and whether these
    /// are all: they are written together with the call's head.
    fn received(&mut self) -> Result<(Vec<Payload>, bool), Ended> {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut messages, mut length) = (Vec::new(), 0);
        while length < FIRST_WRITE_BYTES {
            let Poll::Ready(message) = self.poll_message(&mut cx)? else {
                break;
            };
            let Some(body) = message else {
                return Ok((messages, true));
            };
            length += body.len();
            messages.push(Payload {
                head: Bytes::new(),
                body,
            });
        }
        Ok((messages, false))
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Ended>> {
        poll_message(&mut self.recv, &mut self.deframer, cx).map_err(Ended::from)
    }
}
