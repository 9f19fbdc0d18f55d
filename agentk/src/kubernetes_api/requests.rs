//! The messages of an HTTP request, in order.

use bytes::Bytes;
use prost::Message as _;
use proto::{
    agent::{
        grpctool::{HttpRequest, Segment, http_request, http_request::Message},
        reverse_tunnel::rpc::connect_response::Msg,
    },
    sequence::{END, FieldNumber, HTTP, OutOfOrder, Sequence},
};
use tonic::Status;

use crate::call::{CallError, Inbound, TunnelError};

/// A part of an HTTP request.
#[derive(Debug)]
pub(super) enum Part {
    /// Method, URL and headers; apart, so that a part of a body is small.
    Header(Box<http_request::Header>),
    /// Bytes of the body.
    Data(Bytes),
    /// The body is whole.
    Trailer,
    /// Bytes of an upgraded connection.
    UpgradeData(Bytes),
    /// A piece of a resumable connection.
    Segment(Segment),
    /// kas has nothing more to say.
    HalfClose,
}

/// Reads a request's parts from a tunnel.
#[derive(Debug)]
pub(super) struct RequestParts<'a> {
    inbound: &'a mut Inbound,
    order: Sequence,
}

impl<'a> RequestParts<'a> {
    pub(super) fn new(inbound: &'a mut Inbound) -> Self {
        Self {
            inbound,
            order: Sequence::new(HTTP),
        }
    }

    /// The first part.
    pub(super) async fn header(&mut self) -> Result<Box<http_request::Header>, CallError> {
        match self.next().await? {
            Some(Part::Header(header)) => Ok(header),
            Some(part) => unreachable!("the sequence begins with a header, not with {part:?}"),
            None => Err(TunnelError::Ended(Status::ok("")).into()),
        }
    }

    /// The next part, or `None` when kas has ended the tunnel in order. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Part>, CallError> {
        match self.inbound.next().await? {
            None => Ok(None),
            Some(Msg::RequestInfo(_)) => unreachable!("the tunnel's sequence was checked"),
            Some(Msg::CloseSend(_)) => {
                self.order.step(END).map_err(|error| wrong_order(&error))?;
                Ok(Some(Part::HalfClose))
            }
            Some(Msg::Message(message)) => self.decode(message.data).map(Some),
        }
    }

    fn decode(&mut self, bytes: Bytes) -> Result<Part, CallError> {
        let message = HttpRequest::decode(bytes)
            .map_err(|error| Status::internal(format!("a request cannot be read: {error}")))?
            .message
            .ok_or_else(|| Status::invalid_argument("a message without content"))?;
        self.order
            .step(message.field_number())
            .map_err(|error| wrong_order(&error))?;
        Ok(match message {
            Message::Header(header) => Part::Header(Box::new(header)),
            Message::Data(data) => Part::Data(data.data),
            Message::Trailer(_) => Part::Trailer,
            Message::UpgradeData(data) => Part::UpgradeData(data.data),
            Message::Segment(segment) => Part::Segment(segment),
        })
    }
}

fn wrong_order(error: &OutOfOrder) -> Status {
    Status::invalid_argument(error.to_string())
}
