//! A call in progress: one method call on an agent, through a tunnel of this
//! replica or through the peer that holds one.
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
        CloseSend, ConnectRequest, ConnectResponse, connect_request, connect_response,
    },
    frame::{Deframer, Frame, FrameBuilder, Payload},
    metadata::{RawMeta, request_info},
    sequence::{END, FieldNumber, Sequence},
};
use runtime::grpc::{SendStream, poll_message};
use tonic::Status;

use crate::{
    error::Broken,
    opening::Opening,
    peers::{PeerStream, StreamPermit, TunnelRequest},
    tunnel::{Tunnel, TunnelInUse},
};

/// The field of `ConnectResponse.request_info`.
const REQUEST_INFO: &[u32] = &[1];
/// Field numbers around a message to the agent:
/// `ConnectResponse.message`, `Message.data`.
const TO_AGENT: &[u32] = &[2, 1];
/// Bytes of framing and field keys around a payload, at most.
const MAX_OVERHEAD_BYTES: usize = 32;

/// An event of an agent's response, in this order: header, messages, trailer,
/// perhaps an error, end.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Metadata ahead of the first message.
    Header(RawMeta),
    /// A message of the method, encoded as the agent sent it.
    Message(Bytes),
    /// Metadata behind the last message.
    Trailer(RawMeta),
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
    /// Whoever made the call was lost with it, and may ask for its answer in another way.
    lost: bool,
}

#[derive(Debug)]
enum Path {
    /// The stream is a tunnel of this replica.
    Tunnel(TunnelInUse),
    /// The stream leads to the peer that holds the tunnel, of an agent process that has this method for its answers.
    Peer(StreamPermit, Option<Arc<str>>),
}

impl Call {
    /// Begins a call on a tunnel of this replica, in one write.
    ///
    /// # Errors
    /// [`Broken`] when the tunnel is gone.
    pub fn through_tunnel(tunnel: Tunnel, opening: &Opening) -> Result<Self, Broken> {
        let (mut stream, in_use) = tunnel.commit();
        let mut send = stream
            .respond
            .send_response(runtime::grpc::response_headers(), false)?;
        let info = Payload {
            head: request_info(&opening.method, &opening.meta),
            body: Bytes::new(),
        };
        let mut frame = FrameBuilder::default().nested(REQUEST_INFO, info);
        for payload in &opening.messages {
            frame = frame.nested(TO_AGENT, payload.clone());
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
            path: Path::Tunnel(in_use),
            send_closed: opening.close,
            ended: false,
            broken: false,
            lost: false,
        })
    }

    /// Begins a call on the tunnel that a peer has reserved, unless it began with
    /// the request for the tunnel.
    ///
    /// # Errors
    /// [`Broken`] when the stream is gone.
    pub fn through_peer(request: TunnelRequest, opening: &Opening) -> Result<Self, Broken> {
        let PeerStream {
            send,
            recv,
            deframer,
            sequence,
            permit,
            answers,
        } = request.begin(opening)?;
        Ok(Self {
            send,
            recv,
            deframer,
            sequence,
            path: Path::Peer(permit, answers),
            send_closed: opening.close,
            ended: false,
            broken: false,
            lost: false,
        })
    }

    /// The URL of the replica that has the tunnel, where that is another one.
    #[must_use]
    pub fn peer(&self) -> Option<&str> {
        match &self.path {
            Path::Tunnel(_) => None,
            Path::Peer(permit, _) => Some(permit.url()),
        }
    }

    /// The method by which the agent process that carries the call is asked for answers that it has kept, where it has
    /// one.
    #[must_use]
    pub fn answers(&self) -> Option<Arc<str>> {
        match &self.path {
            Path::Tunnel(in_use) => in_use.offer().answers().cloned(),
            Path::Peer(_, answers) => answers.clone(),
        }
    }

    /// Waits until the flow-control window has room for a payload.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<Result<(), Broken>> {
        self.send.reserve_capacity(length + MAX_OVERHEAD_BYTES);
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(self.fail(error.into()))),
                None => {
                    return Poll::Ready(Err(self.fail(h2::Error::from(h2::Reason::CANCEL).into())));
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
            Path::Peer(..) => &[],
        };
        let sent = self.send.send_data(Frame::nested(fields, payload), false);
        sent.map_err(|error| self.fail(error.into()))
    }

    /// Sends a message once there is room. Cancel-safe: a cancelled call has sent nothing.
    ///
    /// # Errors
    /// [`Broken`] when the tunnel is gone.
    pub async fn send(&mut self, payload: Payload) -> Result<(), Broken> {
        poll_fn(|cx| self.poll_ready(cx, payload.len())).await?;
        self.start_send(payload)
    }

    /// Half-closes: no more messages follow.
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
            Path::Peer(..) => self.send.send_data(Frame::default(), true),
        };
        sent.map_err(|error| self.fail(error.into()))
    }

    /// Has the agent hear, when the call is dropped before its end, that nobody cancelled it: its caller was lost. Only
    /// an agent that keeps answers hears it.
    pub(crate) fn lose(&mut self) {
        self.lost = self.answers().is_some();
    }

    /// The next event, with the bytes that it came in.
    pub(crate) fn poll_raw(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Event, Bytes), Broken>> {
        match ready!(self.poll_message(cx)) {
            Ok(Some(bytes)) => {
                let event = self.decode(bytes.clone());
                Poll::Ready(
                    event
                        .map(|event| (event, bytes))
                        .map_err(|error| self.fail(error)),
                )
            }
            Ok(None) => Poll::Ready(Ok((Event::End, Bytes::new()))),
            Err(error) => Poll::Ready(Err(self.fail(error))),
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

    /// Bytes of the response that were received and not read.
    pub(crate) fn unread(&mut self) -> usize {
        self.recv.flow_control().used_capacity()
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        let message = poll_message(&mut self.recv, &mut self.deframer, cx);
        if message.is_pending()
            && let Path::Tunnel(in_use) = &self.path
            && in_use.poll_cut(cx)
        {
            let revoked = "the agent's token is not valid any more";
            return Poll::Ready(Err(Broken::Connection(revoked.to_owned())));
        }
        match ready!(message)? {
            Some(message) => Poll::Ready(Ok(Some(message))),
            None => self.poll_end(cx).map_ok(|()| None),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if let Path::Peer(..) = self.path {
            let trailers = ready!(self.recv.poll_trailers(cx))?.unwrap_or_default();
            let status = Status::from_header_map(&trailers)
                .unwrap_or_else(|| Status::unavailable("the stream ended without a status"));
            if status.code() != tonic::Code::Ok {
                return Poll::Ready(Err(Broken::from_owner(status)));
            }
        }
        // A load balancer that terminates gRPC ends a stream in order when it loses the agent: an end
        // that comes too early is a failure of the path.
        if self.deframer.finish().is_err() || self.sequence.step(END).is_err() {
            let early = "the stream ended before the response was complete";
            return Poll::Ready(Err(Broken::Connection(early.to_owned())));
        }
        self.ended = true;
        Poll::Ready(Ok(()))
    }

    fn decode(&mut self, bytes: Bytes) -> Result<Event, Broken> {
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

    fn fail(&mut self, error: Broken) -> Broken {
        self.broken = true;
        error
    }
}

fn to_agent(msg: connect_response::Msg) -> ConnectResponse {
    ConnectResponse { msg: Some(msg) }
}
