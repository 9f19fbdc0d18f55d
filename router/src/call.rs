//! A call in progress: one method call on an agent, through a tunnel of this
//! replica or through the replica that holds one.
//!
//! Both paths carry the same messages under the same field numbers
//! (`ConnectRequest` and `GatewayKasResponse`, 2 to 5), so one type serves both.
//! Payload bytes are never copied here.

mod end;

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use prost::Message as _;
use proto::{
    agent::reverse_tunnel::rpc::{
        CloseSend, ConnectRequest, ConnectResponse, RequestInfo, connect_request, connect_response,
    },
    frame::{Deframer, Frame, FrameBuilder, Payload},
    metadata::Meta,
    sequence::{END, FieldNumber, Sequence},
};
use runtime::grpc::{SendStream, poll_message};
use tonic::Status;

use crate::{
    error::Broken,
    peers::Lease,
    tunnel::{Tunnel, Using},
};

/// Field numbers around a message to the agent:
/// `ConnectResponse.message`, `Message.data`.
const TO_AGENT: &[u32] = &[2, 1];
/// Framing and field keys around a payload, at most, in bytes.
const OVERHEAD: usize = 32;

/// The beginning of a call: all that can be said before an answer is awaited.
/// Clones share the bytes, so that a call can be begun again elsewhere.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Path of the method, `/package.Service/Method`.
    pub method: Arc<str>,
    /// Metadata for the agent.
    pub meta: Meta,
    /// First messages.
    pub messages: Vec<Payload>,
    /// Whether these are all messages.
    pub close: bool,
    /// Whether doing it twice is like doing it once.
    pub safe: bool,
    /// Whether it is made again elsewhere whenever it breaks, so that a replica that leaves may end it.
    pub moves: bool,
}

/// What an agent answers, in this order: header, messages, trailer, perhaps an
/// error, end.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Metadata ahead of the first message.
    Header(Meta),
    /// A message of the method, encoded.
    Message(Bytes),
    /// Metadata behind the last message.
    Trailer(Meta),
    /// The method failed.
    Error(proto::google::rpc::Status),
    /// Nothing follows.
    End,
}

/// A call in progress. Dropping it before its end cancels it at the agent.
#[derive(Debug)]
pub struct Call {
    send: SendStream,
    recv: h2::RecvStream,
    deframer: Deframer,
    sequence: Sequence,
    path: Path,
    send_closed: bool,
    ended: bool,
    broken: bool,
}

#[derive(Debug)]
enum Path {
    /// The stream is the agent's, held by this replica.
    Tunnel(Using),
    /// The stream leads to the replica that holds the tunnel.
    Peer(#[expect(dead_code, reason = "held for its Drop")] Lease),
}

impl Call {
    /// Begins a call on a tunnel of this replica, in one write.
    ///
    /// # Errors
    /// [`Broken`] when the tunnel is gone.
    pub fn through_tunnel(tunnel: Tunnel, opening: Opening) -> Result<Self, Broken> {
        let (mut stream, using) = tunnel.commit();
        let mut send = stream
            .respond
            .send_response(runtime::grpc::response_headers(), false)?;
        let info = RequestInfo {
            method_name: opening.method.to_string(),
            meta: opening.meta,
        };
        let mut frame =
            FrameBuilder::default().message(&to_agent(connect_response::Msg::RequestInfo(info)));
        for payload in opening.messages {
            frame = frame.nested(TO_AGENT, payload);
        }
        if opening.close {
            frame = frame.message(&to_agent(connect_response::Msg::CloseSend(CloseSend {})));
        }
        send.send_data(frame.build(), false)?;
        let mut sequence = Sequence::new(proto::sequence::CONNECT_REQUEST);
        sequence.step(1)?;
        Ok(Self {
            send,
            recv: stream.recv,
            deframer: stream.deframer,
            sequence,
            path: Path::Tunnel(using),
            send_closed: opening.close,
            ended: false,
            broken: false,
        })
    }

    /// A call on a stream to a peer that has a tunnel ready, and was sent the
    /// opening.
    pub(crate) fn through_peer(
        send: SendStream,
        recv: h2::RecvStream,
        deframer: Deframer,
        sequence: Sequence,
        lease: Lease,
        send_closed: bool,
    ) -> Self {
        Self {
            send,
            recv,
            deframer,
            sequence,
            path: Path::Peer(lease),
            send_closed,
            ended: false,
            broken: false,
        }
    }

    /// Waits until a payload of `length` bytes can be sent without piling up.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<Result<(), Broken>> {
        self.send.reserve_capacity(length + OVERHEAD);
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(self.broke(error.into()))),
                None => {
                    return Poll::Ready(
                        Err(self.broke(h2::Error::from(h2::Reason::CANCEL).into())),
                    );
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends a message for which [`Self::poll_ready`] had room.
    ///
    /// # Errors
    /// [`Broken`] when the tunnel is gone.
    pub fn start_send(&mut self, payload: Payload) -> Result<(), Broken> {
        let fields = match self.path {
            Path::Tunnel(_) => TO_AGENT,
            Path::Peer(_) => &[],
        };
        let sent = self.send.send_data(Frame::nested(fields, payload), false);
        sent.map_err(|error| self.broke(error.into()))
    }

    /// Sends a message once there is room. Cancelled, it has sent nothing.
    ///
    /// # Errors
    /// [`Broken`] when the tunnel is gone.
    pub async fn send(&mut self, payload: Payload) -> Result<(), Broken> {
        poll_fn(|cx| self.poll_ready(cx, payload.len())).await?;
        self.start_send(payload)
    }

    /// Says that no more messages follow.
    ///
    /// # Errors
    /// [`Broken`] when the tunnel is gone.
    pub fn close_send(&mut self) -> Result<(), Broken> {
        if std::mem::replace(&mut self.send_closed, true) {
            return Ok(());
        }
        let sent = match self.path {
            Path::Tunnel(_) => {
                let close = to_agent(connect_response::Msg::CloseSend(CloseSend {}));
                self.send.send_data(Frame::message(&close), false)
            }
            Path::Peer(_) => self.send.send_data(Frame::default(), true),
        };
        sent.map_err(|error| self.broke(error.into()))
    }

    /// The next event, and with it the bytes that it came in.
    pub(crate) fn poll_raw(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Event, Bytes), Broken>> {
        match ready!(self.poll_message(cx)) {
            Ok(Some(bytes)) => {
                let event = self.understand(bytes.clone());
                Poll::Ready(
                    event
                        .map(|event| (event, bytes))
                        .map_err(|error| self.broke(error)),
                )
            }
            Ok(None) => Poll::Ready(Ok((Event::End, Bytes::new()))),
            Err(error) => Poll::Ready(Err(self.broke(error))),
        }
    }

    /// The next event. After [`Event::End`] there is nothing to poll for.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Broken>> {
        self.poll_raw(cx).map_ok(|(event, _)| event)
    }

    /// Waits for the next event. Cancel-safe.
    ///
    /// # Errors
    /// [`Broken`] when the call cannot go on.
    pub async fn event(&mut self) -> Result<Event, Broken> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Bytes of the answer that are here and were not looked at.
    pub(crate) fn unread(&mut self) -> usize {
        self.recv.flow_control().used_capacity()
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        let message = poll_message(&mut self.recv, &mut self.deframer, cx);
        if message.is_pending()
            && let Path::Tunnel(using) = &self.path
            && using.poll_cut(cx)
        {
            let revoked = "the agent's token is good no more";
            return Poll::Ready(Err(Broken::Connection(revoked.to_owned())));
        }
        match ready!(message)? {
            Some(message) => Poll::Ready(Ok(Some(message))),
            None => self.poll_end(cx).map_ok(|()| None),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if let Path::Peer(_) = self.path {
            let trailers = ready!(self.recv.poll_trailers(cx))?.unwrap_or_default();
            let status = Status::from_header_map(&trailers)
                .unwrap_or_else(|| Status::unavailable("the stream ended without a status"));
            if status.code() != tonic::Code::Ok {
                return Poll::Ready(Err(Broken::from_owner(status)));
            }
        }
        // A load balancer that takes gRPC apart ends a stream in order when it cuts the agent off, or
        // loses it: an end that comes too early is the path's.
        if self.deframer.finish().is_err() || self.sequence.step(END).is_err() {
            let early = "the stream ended before the answer did";
            return Poll::Ready(Err(Broken::Connection(early.to_owned())));
        }
        self.ended = true;
        Poll::Ready(Ok(()))
    }

    fn understand(&mut self, bytes: Bytes) -> Result<Event, Broken> {
        use connect_request::Msg;
        let Some(message) = ConnectRequest::decode(bytes)?.msg else {
            return Err(Broken::Malformed("a message without content".into()));
        };
        self.sequence.step(message.field_number())?;
        Ok(match message {
            Msg::Header(header) => Event::Header(header.meta),
            Msg::Message(message) => Event::Message(message.data),
            Msg::Trailer(trailer) => Event::Trailer(trailer.meta),
            Msg::Error(error) => Event::Error(error.status.unwrap_or_default()),
            Msg::Descriptor(_) => {
                return Err(Broken::Malformed("a second descriptor".into()));
            }
        })
    }

    fn broke(&mut self, error: Broken) -> Broken {
        self.broken = true;
        error
    }
}

fn to_agent(msg: connect_response::Msg) -> ConnectResponse {
    ConnectResponse { msg: Some(msg) }
}
