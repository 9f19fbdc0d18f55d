//! What kas sends on a tunnel.

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
    sequence::{CONNECT_RESPONSE, END, FieldNumber, Sequence},
};
use runtime::grpc::{ReceiveError, poll_message};
use tonic::Status;

/// Why nothing more comes.
#[derive(Debug, Clone)]
pub(crate) enum Lost {
    /// kas ended the tunnel with a status.
    Ended(Status),
    /// The stream or its connection broke.
    Broken(Status),
    /// kas sent what it must not send.
    Protocol(Status),
}

/// kas's side of a tunnel.
#[derive(Debug)]
pub(crate) struct Inbound {
    source: Source,
    deframer: Deframer,
    order: Sequence,
}

#[derive(Debug)]
enum Source {
    Head(h2::client::ResponseFuture),
    Data(h2::RecvStream),
    Trailers(h2::RecvStream),
    Over(Result<(), Lost>),
}

impl Inbound {
    pub(super) fn new(response: h2::client::ResponseFuture) -> Self {
        Self {
            source: Source::Head(response),
            deframer: Deframer::new(Encoding::Identity),
            order: Sequence::new(CONNECT_RESPONSE),
        }
    }

    /// The next message, in a right place; `None` when kas has ended the tunnel
    /// in order. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Msg>, Lost> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Reads on until kas ends the tunnel, and says whether it did; silence
    /// longer than `limit` is not waited out.
    pub(super) async fn drain(&mut self, limit: Duration) -> bool {
        loop {
            match tokio::time::timeout(limit, self.next()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None) | Err(_)) => return true,
                Err(_) => return false,
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Msg>, Lost>> {
        loop {
            if let Source::Over(end) = &self.source {
                return Poll::Ready(end.clone().map(|()| None));
            }
            match ready!(self.poll_source(cx)) {
                Ok(Some(message)) => return Poll::Ready(self.understand(message).map(Some)),
                Ok(None) => {}
                Err(lost) => self.source = Source::Over(Err(lost)),
            }
        }
    }

    fn understand(&mut self, message: Bytes) -> Result<Msg, Lost> {
        let decoded = ConnectResponse::decode(message).map_err(|error| error.to_string());
        let known =
            decoded.and_then(|it| it.msg.ok_or_else(|| "a message without content".to_owned()));
        let checked = known.and_then(|msg| {
            self.order
                .step(msg.field_number())
                .map_err(|error| error.to_string())?;
            Ok(msg)
        });
        checked.map_err(|why| self.fail(Status::invalid_argument(why)))
    }

    fn fail(&mut self, status: Status) -> Lost {
        let lost = Lost::Protocol(status);
        self.source = Source::Over(Err(lost.clone()));
        lost
    }

    /// Moves one step on, which may bring a message.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Lost>> {
        let broken = |error: h2::Error| Lost::Broken(runtime::grpc::status_from(&error));
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
                    return Poll::Ready(Err(Lost::Protocol(unframed(&error))));
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

    fn take_head(&mut self, response: Response<h2::RecvStream>) -> Result<(), Lost> {
        let (head, stream) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(Lost::Ended(no_grpc(head.status)));
        }
        if let Some(status) = Status::from_header_map(&head.headers) {
            return self.end(status);
        }
        let encoding = Encoding::from_header(head.headers.get("grpc-encoding"))
            .map_err(|error| Lost::Protocol(unframed(&error)))?;
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

    fn take_trailers(&mut self, trailers: &HeaderMap) -> Result<(), Lost> {
        self.deframer
            .finish()
            .map_err(|error| Lost::Protocol(unframed(&error)))?;
        let status = Status::from_header_map(trailers)
            .unwrap_or_else(|| Status::unavailable("the tunnel ended without a status"));
        self.end(status)
    }

    fn end(&mut self, status: Status) -> Result<(), Lost> {
        if status.code() != tonic::Code::Ok {
            return Err(Lost::Ended(status));
        }
        self.order
            .step(END)
            .map_err(|error| Lost::Protocol(Status::invalid_argument(error.to_string())))?;
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
        "unexpected HTTP status {status}: kas or what stands before it did not understand the call"
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
