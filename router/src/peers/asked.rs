//! A question under way: the peer answers, and perhaps a call begins.

use std::future::poll_fn;

use prost::Message as _;
use proto::{
    agent::kas::{GatewayKasResponse, StartStreaming, gateway_kas_response::Msg},
    frame::{Deframer, Encoding, FrameBuilder},
    sequence::{FieldNumber, Sequence},
};
use runtime::grpc::{ReceiveError, SendStream, status_from};
use tonic::Status;

use super::Lease;
use crate::{
    call::{Call, Opening},
    error::Broken,
};

/// A peer's answer to the question for a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A tunnel is reserved.
    Ready,
    /// There is none; the peer waits for one.
    None,
}

/// A stream to a peer that is asked for a tunnel. Dropping it gives a reserved
/// tunnel back.
#[derive(Debug)]
pub struct Asked {
    send: SendStream,
    recv: h2::RecvStream,
    deframer: Deframer,
    sequence: Sequence,
    lease: Lease,
    /// Whether the opening followed the question.
    begun: bool,
}

/// Tells the peer to begin, all in one write.
pub(super) fn begin(send: &mut SendStream, opening: Opening) -> Result<(), h2::Error> {
    let mut frame = FrameBuilder::default().message(&StartStreaming {});
    for payload in opening.messages {
        frame = frame.nested(&[], payload);
    }
    send.send_data(frame.build(), opening.close)
}

impl Asked {
    pub(super) fn new(send: SendStream, recv: h2::RecvStream, lease: Lease, begun: bool) -> Self {
        Self {
            send,
            recv,
            deframer: Deframer::new(Encoding::Identity),
            sequence: Sequence::new(proto::sequence::GATEWAY_KAS_RESPONSE),
            lease,
            begun,
        }
    }

    /// Whether the call was begun with the question.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The next answer: [`Answer::None`] may be followed by [`Answer::Ready`].
    /// Cancel-safe.
    ///
    /// # Errors
    /// A status when the peer refused or its connection broke.
    pub async fn answer(&mut self) -> Result<Answer, Status> {
        let message = self.message().await?;
        let Some(message) = decode(message)? else {
            return Err(Status::internal("the peer sent a message without content"));
        };
        self.sequence
            .step(message.field_number())
            .map_err(|error| Status::internal(error.to_string()))?;
        match message {
            Msg::TunnelReady(_) => Ok(Answer::Ready),
            Msg::NoTunnel(_) => Ok(Answer::None),
            Msg::Header(_) | Msg::Message(_) | Msg::Trailer(_) | Msg::Error(_) => {
                Err(Status::internal("the peer answered before the call began"))
            }
        }
    }

    /// Begins the call on the tunnel that the peer has reserved, if it did not
    /// begin with the question.
    ///
    /// # Errors
    /// [`Broken`] when the stream is gone.
    pub fn start(self, opening: &Opening) -> Result<Call, Broken> {
        let Self {
            mut send,
            recv,
            deframer,
            sequence,
            lease,
            begun,
        } = self;
        if !begun {
            begin(&mut send, opening.clone())?;
        }
        let call = Call::through_peer(send, recv, deframer, sequence, lease, opening.close);
        Ok(call)
    }

    async fn message(&mut self) -> Result<bytes::Bytes, Status> {
        match runtime::grpc::message(&mut self.recv, &mut self.deframer).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(ended(&mut self.recv).await),
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
