//! What the server sends through a tunnel.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use prost::Message as _;
use proto::{
    agent::reverse_tunnel::rpc::{ConnectResponse, connect_response::Msg},
    frame::{Deframer, Encoding, FrameError},
    sequence::{CONNECT_RESPONSE, END, FieldNumber, OutOfOrder, Sequence},
};
use tonic::Status;

use super::TunnelError;
use crate::{
    grpc::{ReceiveError, poll_message, status_from},
    traces::TraceParent,
};

/// The server's side of a tunnel.
#[derive(Debug)]
pub struct Inbound {
    source: Source,
    deframer: Deframer,
    order: Sequence,
    trace_parent: TraceParent,
}

/// A message that the protocol does not allow.
#[derive(Debug, thiserror::Error)]
enum MessageError {
    #[error(transparent)]
    Malformed(#[from] prost::DecodeError),
    #[error("a message without content")]
    Empty,
    #[error(transparent)]
    Order(#[from] OutOfOrder),
}

#[derive(Debug)]
enum Source {
    Head(h2::client::ResponseFuture),
    Data(h2::RecvStream),
    Trailers(h2::RecvStream),
    Over(Result<(), TunnelError>),
}

impl Inbound {
    pub(super) fn new(response: h2::client::ResponseFuture) -> Self {
        Self {
            source: Source::Head(response),
            deframer: Deframer::new(Encoding::Identity),
            order: Sequence::new(CONNECT_RESPONSE),
            trace_parent: TraceParent::default(),
        }
    }

    /// The call belongs to the trace that its metadata name.
    pub fn belongs_to(&mut self, parent: TraceParent) {
        self.trace_parent = parent;
    }

    /// The span of the call, below which others begin.
    #[must_use]
    pub fn trace_parent(&self) -> &TraceParent {
        &self.trace_parent
    }

    /// The next message, in a right place; `None` when the server has ended the
    /// tunnel in order. Cancel-safe.
    ///
    /// # Errors
    /// Why nothing more comes.
    pub async fn next(&mut self) -> Result<Option<Msg>, TunnelError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Reads on until the server ends the tunnel, and says whether it did; silence
    /// longer than `limit` is not waited out.
    pub async fn drain(&mut self, limit: Duration) -> bool {
        loop {
            match tokio::time::timeout(limit, self.next()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None) | Err(_)) => return true,
                Err(_) => return false,
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Msg>, TunnelError>> {
        loop {
            if let Source::Over(end) = &self.source {
                return Poll::Ready(end.clone().map(|()| None));
            }
            match ready!(self.poll_source(cx)) {
                Ok(Some(message)) => return Poll::Ready(self.decode(message).map(Some)),
                Ok(None) => {}
                Err(lost) => self.source = Source::Over(Err(lost)),
            }
        }
    }

    fn decode(&mut self, message: Bytes) -> Result<Msg, TunnelError> {
        self.checked(message)
            .map_err(|error| self.fail(Status::invalid_argument(error.to_string())))
    }

    fn checked(&mut self, message: Bytes) -> Result<Msg, MessageError> {
        let message = ConnectResponse::decode(message)?;
        let msg = message.msg.ok_or(MessageError::Empty)?;
        self.order.step(msg.field_number())?;
        Ok(msg)
    }

    fn fail(&mut self, status: Status) -> TunnelError {
        let lost = TunnelError::Protocol(status);
        self.source = Source::Over(Err(lost.clone()));
        lost
    }

    /// Moves one step on, which may bring a message.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, TunnelError>> {
        let broken = |error: h2::Error| TunnelError::Broken(status_from(&error));
        match &mut self.source {
            Source::Head(response) => {
                let response = ready!(Pin::new(response).poll(cx)).map_err(broken)?;
                self.take_head(response)?;
            }
            Source::Data(stream) => match ready!(poll_message(stream, &mut self.deframer, cx)) {
                Ok(Some(message)) => return Poll::Ready(Ok(Some(message))),
                Ok(None) => self.end_data(),
                Err(ReceiveError::Stream(error)) => return Poll::Ready(Err(broken(error))),
                Err(ReceiveError::Frame(error)) => {
                    return Poll::Ready(Err(TunnelError::Protocol(unframed(&error))));
                }
            },
            Source::Trailers(stream) => {
                let trailers = ready!(stream.poll_trailers(cx)).map_err(broken)?;
                self.take_trailers(&trailers.unwrap_or_default())?;
            }
            Source::Over(_) => {}
        }
        Poll::Ready(Ok(None))
    }

    fn take_head(&mut self, response: Response<h2::RecvStream>) -> Result<(), TunnelError> {
        let (head, stream) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(TunnelError::Ended(no_grpc(head.status)));
        }
        if let Some(status) = Status::from_header_map(&head.headers) {
            return self.end(status);
        }
        let encoding = Encoding::from_header(head.headers.get("grpc-encoding"))
            .map_err(|error| TunnelError::Protocol(unframed(&error)))?;
        self.deframer = Deframer::new(encoding);
        self.source = Source::Data(stream);
        Ok(())
    }

    fn end_data(&mut self) {
        let over = Source::Over(Ok(()));
        if let Source::Data(stream) = std::mem::replace(&mut self.source, over) {
            self.source = Source::Trailers(stream);
        }
    }

    fn take_trailers(&mut self, trailers: &HeaderMap) -> Result<(), TunnelError> {
        self.deframer
            .finish()
            .map_err(|error| TunnelError::Protocol(unframed(&error)))?;
        let status = Status::from_header_map(trailers)
            .unwrap_or_else(|| Status::unavailable("the tunnel ended without a status"));
        self.end(status)
    }

    fn end(&mut self, status: Status) -> Result<(), TunnelError> {
        if status.code() != tonic::Code::Ok {
            return Err(TunnelError::Ended(status));
        }
        self.order
            .step(END)
            .map_err(|error| TunnelError::Protocol(Status::invalid_argument(error.to_string())))?;
        self.source = Source::Over(Ok(()));
        Ok(())
    }
}

fn unframed(error: &FrameError) -> Status {
    match error {
        FrameError::TooLong { .. } => Status::resource_exhausted(error.to_string()),
        FrameError::UnknownEncoding(_) => Status::unimplemented(error.to_string()),
        FrameError::BadFlag(_) | FrameError::BadGzip | FrameError::Truncated => {
            Status::internal(error.to_string())
        }
    }
}

/// What an HTTP answer means that is none of gRPC
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
fn no_grpc(status: StatusCode) -> Status {
    let message = format!(
        "unexpected HTTP status {status}: the server or what stands before it did not decode the call"
    );
    let code = match status.as_u16() {
        400 => tonic::Code::Internal,
        401 => tonic::Code::Unauthenticated,
        403 => tonic::Code::PermissionDenied,
        404 => tonic::Code::Unimplemented,
        429 | 502..=504 => tonic::Code::Unavailable,
        _ => tonic::Code::Unknown,
    };
    Status::new(code, message)
}
