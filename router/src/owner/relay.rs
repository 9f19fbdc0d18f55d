//! The two directions of a relayed call. Each has its own flow control: one that
//! is blocked never stops the other.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use cluster_state::AgentId;
use proto::frame::{Frame, Payload};
use runtime::grpc::SendStream;

use super::{Ended, Incoming};
use crate::{
    call::{Call, Event},
    error::Broken,
    reader::{Reader, Readers},
};

/// A call between a peer and an agent.
pub(super) struct Relay<'a> {
    pub(super) call: &'a mut Reader,
    pub(super) agent: AgentId,
    pub(super) caller: &'a Arc<str>,
    pub(super) readers: &'a Arc<Readers>,
    pub(super) peer: &'a mut Incoming,
    pub(super) send: &'a mut SendStream,
    /// Waits for room towards the agent.
    pub(super) to_agent: Option<Payload>,
    /// Waits for room towards the peer.
    pub(super) to_peer: Option<Frame>,
    /// Whether the peer has not half-closed yet.
    pub(super) peer_sends: bool,
}

impl Relay<'_> {
    /// Relays until the agent's response has ended and was sent on.
    pub(super) async fn run(mut self) -> Result<(), Ended> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        while self.poll_to_agent(cx)?.is_ready() {}
        loop {
            match self.poll_to_peer(cx)? {
                Poll::Ready(true) => return Poll::Ready(Ok(())),
                Poll::Ready(false) => {}
                Poll::Pending => break,
            }
        }
        // A peer that has half-closed can cancel only by a reset.
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(h2::Reason::CANCEL)) => Poll::Ready(Err(Ended::Peer)),
            Poll::Ready(_) => Poll::Ready(Err(Ended::PeerLost)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// One step towards the agent.
    fn poll_to_agent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if let Some(payload) = &self.to_agent {
            let length = payload.len();
            let ready = self.call.with(|call| call.poll_ready(cx, length));
            std::task::ready!(ready.map_err(Ended::Call)?).map_err(Ended::Call)?;
        }
        if let Some(payload) = self.to_agent.take() {
            let sent = self.call.with(|call| call.start_send(payload));
            return Poll::Ready(sent.and_then(|sent| sent).map_err(Ended::Call));
        }
        if !self.peer_sends {
            return Poll::Pending;
        }
        match std::task::ready!(self.peer.poll_message(cx))? {
            Some(body) => {
                self.to_agent = Some(Payload {
                    head: Bytes::new(),
                    body,
                })
            }
            None => {
                self.peer_sends = false;
                let closed = self.call.with(Call::close_send);
                closed.and_then(|closed| closed).map_err(Ended::Call)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// One step towards the peer; `true` when the response is complete.
    fn poll_to_peer(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Ended>> {
        if let Some(frame) = &self.to_peer {
            self.send.reserve_capacity(frame.remaining());
            while self.send.capacity() == 0 {
                match self.send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => {
                        return Poll::Ready(Err(self.peer_ended(cx)));
                    }
                    Poll::Pending => return self.poll_stalled(cx),
                }
            }
        }
        if let Some(frame) = self.to_peer.take()
            && self.send.send_data(frame, false).is_err()
        {
            return Poll::Ready(Err(self.peer_ended(cx)));
        }
        let (event, body) = std::task::ready!(self.call.poll_raw(cx)).map_err(Ended::Call)?;
        if event == Event::End {
            return Poll::Ready(Ok(true));
        }
        self.to_peer = Some(Frame::nested(
            &[],
            Payload {
                head: Bytes::new(),
                body,
            },
        ));
        Poll::Ready(Ok(false))
    }

    /// How the peer has ended a stream to which nothing can be sent any more.
    fn peer_ended(&mut self, cx: &mut Context<'_>) -> Ended {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(h2::Reason::CANCEL)) => Ended::Peer,
            Poll::Ready(_) | Poll::Pending => Ended::PeerLost,
        }
    }

    /// The peer takes nothing for now: the call is watched for unread responses.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Ended>> {
        self.call.count(self.readers, self.agent, self.caller);
        if self.call.poll_cut(cx) {
            return Poll::Ready(Err(Ended::Call(Broken::Unread)));
        }
        Poll::Pending
    }
}
