//! The stream of responses to a call.

use std::future::poll_fn;

use proto::frame::Frame;
use runtime::grpc::{SendResponse, SendStream, response_headers, send_frame, trailers};
use tonic::{Code, Status};

use super::refuse;

/// The stream of responses to a call.
pub(in crate::gateway) enum Responses {
    /// The call can still be refused.
    Unopened(SendResponse),
    Open(SendStream),
    /// The agent has reset it.
    Gone,
}

impl Responses {
    /// Sends the response's header. From then on an error ends the stream.
    pub(in crate::gateway) fn open(&mut self) -> Result<(), Status> {
        if let Self::Unopened(respond) = self {
            *self = match respond.send_response(response_headers(), false) {
                Ok(stream) => Self::Open(stream),
                Err(_) => Self::Gone,
            };
        }
        self.stream().map(drop)
    }

    /// Sends a response when there is room for it.
    pub(in crate::gateway) async fn send(
        &mut self,
        response: &impl prost::Message,
    ) -> Result<(), Status> {
        let frame = Frame::message(response);
        let sent = send_frame(self.stream()?, frame).await;
        sent.map_err(|_| gone())
    }

    /// Waits until the agent has reset the stream.
    pub(in crate::gateway) async fn gone(&mut self) -> Status {
        if let Ok(stream) = self.stream() {
            let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
        }
        gone()
    }

    fn stream(&mut self) -> Result<&mut SendStream, Status> {
        match self {
            Self::Open(stream) => Ok(stream),
            Self::Unopened(_) | Self::Gone => Err(gone()),
        }
    }

    /// Ends the stream with the result, or refuses the call by it.
    pub(in crate::gateway) fn end(self, result: Result<(), Status>, method: &'static str) {
        let status = result.err().unwrap_or_else(|| Status::ok(""));
        match self {
            // A stream that is gone needs no end.
            Self::Open(mut stream) => drop(stream.send_trailers(trailers(&status))),
            Self::Unopened(respond) => refuse(respond, &status, method),
            Self::Gone => {}
        }
    }
}

fn gone() -> Status {
    Status::new(Code::Cancelled, "the agent has reset the stream")
}
