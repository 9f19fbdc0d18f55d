//! The messages of a module's request, in their order.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use h2::RecvStream;
use http::HeaderMap;
use prost::Message as _;
use proto::{
    agent::grpctool::{
        HttpRequest,
        http_request::{Header, Message},
    },
    frame::Deframer,
    sequence::{END, FieldNumber, HTTP, Sequence},
};
use runtime::grpc::{deframer, not_received, out_of_bounds, poll_message};
use tonic::Status;

use super::{super::super::service::Bidirectional, MakeRequest};

/// The messages that are still to come.
pub(super) struct Messages {
    stream: RecvStream,
    deframer: Deframer,
    order: Sequence,
}

impl Messages {
    /// Those of a call with these headers.
    pub(super) fn new(headers: &HeaderMap, stream: RecvStream) -> Result<Self, Status> {
        Ok(Self {
            stream,
            deframer: deframer(headers, MakeRequest::BOUNDS.bytes)?,
            order: Sequence::new(HTTP),
        })
    }

    /// The first one.
    pub(super) async fn header(&mut self) -> Result<Header, Status> {
        match poll_fn(|cx| self.poll_next(cx)).await? {
            Some(Message::Header(header)) => Ok(header),
            Some(_) | None => Err(Status::invalid_argument("the request has no header")),
        }
    }

    /// The next one; none where the request ends in order.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Message>, Status>> {
        let received = ready!(poll_message(&mut self.stream, &mut self.deframer, cx));
        Poll::Ready(self.understand(received.map_err(|error| not_received(&error))?))
    }

    fn understand(&mut self, bytes: Option<bytes::Bytes>) -> Result<Option<Message>, Status> {
        let disorder =
            |error: proto::sequence::OutOfOrder| Status::invalid_argument(error.to_string());
        let Some(bytes) = bytes else {
            self.order.step(END).map_err(disorder)?;
            return Ok(None);
        };
        let checked = MakeRequest::BOUNDS.check(&bytes);
        checked.map_err(|error| out_of_bounds(&error))?;
        let message = HttpRequest::decode(bytes).ok().and_then(|it| it.message);
        let message =
            message.ok_or_else(|| Status::invalid_argument("the message is not understood"))?;
        self.order.step(message.field_number()).map_err(disorder)?;
        Ok(Some(message))
    }
}
