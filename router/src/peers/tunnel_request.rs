//! A request for a tunnel that a peer is answering.

use std::{future::poll_fn, sync::Arc};

use prost::Message as _;
use proto::{
    ProcessMethod,
    agent::kas::{GatewayKasResponse, StartStreaming, gateway_kas_response::Msg},
    frame::{Deframer, Encoding, FrameBuilder},
    sequence::{FieldNumber, Sequence},
};
use runtime::grpc::{ReceiveError, SendStream, status_from};
use tonic::Status;

use super::StreamPermit;
use crate::{error::Broken, opening::Opening};

/// A peer's reply to a request for a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelReply {
    /// A tunnel is reserved.
    Ready,
    /// No tunnel is idle; the peer waits for one.
    NoneYet,
}

/// A stream to a peer that was asked for a tunnel. Dropping it gives a reserved
/// tunnel back.
#[derive(Debug)]
pub struct TunnelRequest {
    stream: PeerStream,
    /// Whether the opening was sent with the request.
    begun: bool,
}

/// A stream to a peer, and the state of its messages.
#[derive(Debug)]
pub(crate) struct PeerStream {
    pub(crate) send: SendStream,
    pub(crate) recv: h2::RecvStream,
    pub(crate) deframer: Deframer,
    pub(crate) sequence: Sequence,
    pub(crate) permit: StreamPermit,
    /// The method by which the agent process of the tunnel is asked for its answers.
    pub(crate) answers: Option<Arc<str>>,
}

/// Sends the opening, in one write.
pub(super) fn begin(send: &mut SendStream, opening: &Opening) -> Result<(), h2::Error> {
    let mut frame = FrameBuilder::default().message(&StartStreaming {});
    for payload in &opening.messages {
        frame = frame.nested(&[], payload.clone());
    }
    send.send_data(frame.build(), opening.close)
}

impl TunnelRequest {
    pub(super) fn new(
        send: SendStream,
        recv: h2::RecvStream,
        permit: StreamPermit,
        begun: bool,
    ) -> Self {
        let stream = PeerStream {
            send,
            recv,
            deframer: Deframer::new(Encoding::Identity),
            sequence: Sequence::new(proto::sequence::GATEWAY_KAS_RESPONSE),
            permit,
            answers: None,
        };
        Self { stream, begun }
    }

    /// Whether the call began with the request.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The next reply: [`TunnelReply::NoneYet`] may be followed by
    /// [`TunnelReply::Ready`]. Cancel-safe.
    ///
    /// # Errors
    /// A status when the peer refused or its connection broke.
    pub async fn reply(&mut self) -> Result<TunnelReply, Status> {
        let message = self.message().await?;
        let Some(message) = decode(message)? else {
            return Err(Status::internal("the peer sent a message without content"));
        };
        self.stream
            .sequence
            .step(message.field_number())
            .map_err(|error| Status::internal(error.to_string()))?;
        match message {
            Msg::TunnelReady(ready) => {
                let is_method = ProcessMethod::Answers.is(&ready.answers);
                self.stream.answers = is_method.then(|| ready.answers.into());
                Ok(TunnelReply::Ready)
            }
            Msg::NoTunnel(_) => Ok(TunnelReply::NoneYet),
            Msg::Header(_) | Msg::Message(_) | Msg::Trailer(_) | Msg::Error(_) => Err(
                Status::internal("the peer sent a response before the call began"),
            ),
        }
    }

    /// Sends the opening, unless it was sent with the request; gives the stream
    /// that carries the call.
    pub(crate) fn begin(mut self, opening: &Opening) -> Result<PeerStream, Broken> {
        if !self.begun {
            begin(&mut self.stream.send, opening)?;
        }
        Ok(self.stream)
    }

    async fn message(&mut self) -> Result<bytes::Bytes, Status> {
        match runtime::grpc::message(&mut self.stream.recv, &mut self.stream.deframer).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(ended(&mut self.stream.recv).await),
            Err(ReceiveError::Stream(error)) => Err(status_from(&error)),
            Err(ReceiveError::Frame(error)) => Err(Status::internal(error.to_string())),
        }
    }
}

async fn ended(recv: &mut h2::RecvStream) -> Status {
    let trailers = match poll_fn(|cx| recv.poll_trailers(cx)).await {
        Ok(trailers) => trailers.unwrap_or_default(),
        Err(error) => return status_from(&error),
    };
    match Status::from_header_map(&trailers) {
        Some(status) if status.code() != tonic::Code::Ok => status,
        Some(_) | None => Status::unavailable("the peer ended the call without a tunnel"),
    }
}

fn decode(message: bytes::Bytes) -> Result<Option<Msg>, Status> {
    GatewayKasResponse::decode(message)
        .map(|response| response.msg)
        .map_err(|error| Status::internal(format!("the peer sent a malformed message: {error}")))
}
