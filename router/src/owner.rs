//! The other end of a peer's question: finds a tunnel here, and relays.
//!
//! Messages pass through as they came: those of the agent's answer have the
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
};
use tonic::Status;

use crate::{
    call::{Call, Opening},
    error::Broken,
    peers::Question,
    reader::Reader,
    refusal::Refusal,
    registry::Registry,
    tunnel::Tunnel,
};
use relay::Relay;

/// How long a peer may keep a tunnel without using it.
const BEGIN: Duration = Duration::from_secs(5);

/// Bytes of messages from which on the rest is relayed one by one, uncopied.
const AT_ONCE: usize = 16 << 10;

/// Serves one question of a peer, to its end. The caller has checked that the
/// peer is one. A peer that still waits for a tunnel when `leaving` starts is
/// told to look elsewhere, and so is one whose call [moves](Opening::moves) at
/// the last call.
pub async fn serve(
    registry: &Arc<Registry>,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse,
    leaving: &Drain,
) {
    let question = match Question::read(&request) {
        Ok(question) => question,
        Err(status) => {
            // A peer that is gone needs no answer.
            let _ = runtime::grpc::refuse(respond, &status);
            return;
        }
    };
    let Ok(mut send) = respond.send_response(runtime::grpc::response_headers(), false) else {
        return;
    };
    let peer = Incoming {
        recv: request.into_body(),
        deframer: Deframer::new(Encoding::Identity),
    };
    let status = match relay(registry, question, peer, &mut send, leaving).await {
        Ok(()) => Status::ok(""),
        Err(Ended::Peer) => return,
        Err(Ended::Call(broken)) => broken.for_peer(),
        Err(Ended::Refused(status)) => status,
    };
    let _ = send.send_trailers(runtime::grpc::trailers(&status));
}

/// Why a relay ended early.
enum Ended {
    /// The peer left or broke; there is nobody to tell.
    Peer,
    /// The tunnel broke.
    Call(Broken),
    /// The question could not be served.
    Refused(Status),
}

impl Ended {
    fn leaving() -> Self {
        Self::Refused(Status::unavailable("this replica leaves"))
    }
}

impl From<ReceiveError> for Ended {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Stream(_) => Self::Peer,
            ReceiveError::Frame(error) => {
                Self::Refused(Status::invalid_argument(error.to_string()))
            }
        }
    }
}

impl From<h2::Error> for Ended {
    fn from(_: h2::Error) -> Self {
        Self::Peer
    }
}

async fn relay(
    registry: &Arc<Registry>,
    question: Question,
    mut peer: Incoming,
    send: &mut SendStream,
    leaving: &Drain,
) -> Result<(), Ended> {
    let Some(tunnel) = find(registry, &question, &mut peer, send, leaving).await? else {
        return Ok(());
    };
    say(
        send,
        gateway_kas_response::Msg::TunnelReady(Default::default()),
    )
    .await?;
    // The first message only says to begin; without it the tunnel goes back.
    let Ok(begin) = tokio::time::timeout(BEGIN, peer.message()).await else {
        return Err(Ended::Refused(Status::deadline_exceeded(
            "the tunnel that was ready was not used",
        )));
    };
    if begin?.is_none() {
        return Ok(());
    }
    let (messages, close) = peer.at_once()?;
    let opening = Opening {
        method: question.need.method,
        meta: question.meta,
        messages,
        close,
        safe: question.begins,
        moves: question.moves,
    };
    // Dead already: the agent has seen nothing.
    let begun = Call::through_tunnel(tunnel, opening);
    let mut call = Reader::new(begun.map_err(|_| Ended::Call(Broken::Unused))?);
    let relayed = Relay {
        call: &mut call,
        whose: (question.agent, &question.need.caller),
        readers: registry.readers(),
        peer: &mut peer,
        send,
        up: None,
        down: None,
        asking: !close,
    };
    tokio::select! {
        biased;
        ended = relayed.run() => ended,
        // What goes on elsewhere need not be cut at the end of the grace period.
        () = leaving.last_called(), if question.moves => Err(Ended::leaving()),
    }
}

async fn find(
    registry: &Arc<Registry>,
    question: &Question,
    peer: &mut Incoming,
    send: &mut SendStream,
    leaving: &Drain,
) -> Result<Option<Tunnel>, Ended> {
    if let Some(tunnel) = registry.take(question.agent, &question.need) {
        return Ok(Some(tunnel));
    }
    if question.begins {
        // What was to begin now would be late; it is asked for again.
        say(
            send,
            gateway_kas_response::Msg::NoTunnel(Default::default()),
        )
        .await?;
        return Ok(None);
    }
    let waiting = registry
        .wait(question.agent, &question.need)
        .map_err(|_| Ended::Refused(Refusal::TooManyWaiting.for_peer()))?;
    say(
        send,
        gateway_kas_response::Msg::NoTunnel(Default::default()),
    )
    .await?;
    tokio::select! {
        biased;
        tunnel = waiting.tunnel() => Ok(tunnel),
        // The peer found one elsewhere, or gave up.
        _ = peer.message() => Ok(None),
        () = leaving.wait() => Err(Ended::leaving()),
        refusal = registry.stays_refused(question.agent, &question.need) => {
            Err(Ended::Refused(refusal.for_peer()))
        }
    }
}

async fn say(send: &mut SendStream, msg: gateway_kas_response::Msg) -> Result<(), Ended> {
    Ok(send_frame(send, Frame::message(&GatewayKasResponse { msg: Some(msg) })).await?)
}

/// What the asking peer sends.
struct Incoming {
    recv: h2::RecvStream,
    deframer: Deframer,
}

impl Incoming {
    /// The next message, or `None` at the half-close. Cancel-safe.
    async fn message(&mut self) -> Result<Option<Bytes>, Ended> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// The messages that have come already, as far as they are short, and
    /// whether these are all: they leave in one write with the call's head.
    fn at_once(&mut self) -> Result<(Vec<Payload>, bool), Ended> {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut messages, mut length) = (Vec::new(), 0);
        while length < AT_ONCE {
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
