//! What the client sends through a tunnel.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use prost::Message as _;
use proto::{
    agent::reverse_tunnel::rpc::{
        ConnectRequest, Error as ErrorMessage, Header, Trailer, connect_request::Msg,
    },
    frame::{Frame, FrameBuilder},
    google::rpc,
};
use tonic::Status;

use super::TunnelError;
use crate::grpc::{SendStream, send_frame, status_from};

/// The client's side of a tunnel.
#[derive(Debug)]
pub struct Outbound {
    stream: SendStream,
    header_sent: bool,
    over: bool,
}

impl Outbound {
    pub(super) fn new(stream: SendStream) -> Self {
        Self {
            stream,
            header_sent: false,
            over: false,
        }
    }

    /// Begins a frame; the first one of a call begins with the call's header.
    #[must_use]
    pub fn builder(&self) -> FrameBuilder {
        let builder = FrameBuilder::default();
        if self.header_sent {
            builder
        } else {
            builder.message(&message(Msg::Header(Header::default())))
        }
    }

    /// Sends a frame that begins with the call's header if it is the first, when the server has room for it.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn send(&mut self, frame: Frame) -> Result<(), TunnelError> {
        let sent = send_frame(&mut self.stream, frame).await;
        sent.map_err(|error| broken(&error))?;
        self.header_sent = true;
        Ok(())
    }

    /// Waits until the server has room for a frame of this length, or for a part of it.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
    ) -> Poll<Result<(), TunnelError>> {
        self.stream.reserve_capacity(length);
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                None => return Poll::Ready(Err(broken(&h2::Reason::CANCEL.into()))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends a frame for which [`Self::poll_ready`] had room, as [`Self::send`] does.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub fn start_send(&mut self, frame: Frame) -> Result<(), TunnelError> {
        let sent = self.stream.send_data(frame, false);
        sent.map_err(|error| broken(&error))?;
        self.header_sent = true;
        Ok(())
    }

    /// Ready when the server has reset the tunnel.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<TunnelError> {
        self.stream.poll_reset(cx).map(|reset| match reset {
            Ok(reason) => broken(&reason.into()),
            Err(error) => broken(&error),
        })
    }

    /// Sends the last frame of a call, which ends with the call's trailer.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub fn end(&mut self, frame: Frame) -> Result<(), TunnelError> {
        self.header_sent = true;
        self.over = true;
        self.stream
            .send_data(frame, true)
            .map_err(|error| broken(&error))
    }

    /// Ends the call with an error. A header comes before it in any case: kas
    /// as GitLab ships it wants one.
    pub fn fail(&mut self, status: &Status) {
        if self.over {
            return;
        }
        let error = ErrorMessage {
            status: Some(rpc::Status {
                code: status.code() as i32,
                message: status.message().to_owned(),
                // gRPC's own form of details: an encoded `google.rpc.Status`.
                details: rpc::Status::decode(status.details())
                    .map(|it| it.details)
                    .unwrap_or_default(),
            }),
        };
        let frame = add_trailer(self.builder())
            .message(&message(Msg::Error(error)))
            .build();
        if self.end(frame).is_err() {
            tracing::debug!("tunnel closed before the call's error could be sent");
        }
    }

    /// Resets the tunnel.
    pub fn cancel(&mut self) {
        self.stream.send_reset(h2::Reason::CANCEL);
    }

    /// Resets a tunnel on which no call has come: should the server have begun one in this moment,
    /// REFUSED_STREAM says that nothing was done of it.
    pub fn refuse(&mut self) {
        self.stream.send_reset(h2::Reason::REFUSED_STREAM);
    }

    /// Waits for something, unless the server resets the tunnel first.
    ///
    /// # Errors
    /// When it does.
    pub fn unless_reset<W: Future>(&mut self, wait: W) -> UnlessReset<'_, W> {
        UnlessReset {
            outbound: self,
            wait,
        }
    }
}

pin_project! {
    /// See [`Outbound::unless_reset`]. No async function, which would have room for what it is given twice.
    #[derive(Debug)]
    #[must_use = "nothing is waited for unless it is polled"]
    pub struct UnlessReset<'a, W> {
        outbound: &'a mut Outbound,
        #[pin]
        wait: W,
    }
}

impl<W: Future> Future for UnlessReset<'_, W> {
    type Output = Result<W::Output, TunnelError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(value) = this.wait.poll(cx) {
            return Poll::Ready(Ok(value));
        }
        this.outbound.poll_reset(cx).map(Err)
    }
}

/// Adds the call's trailer to its last frame.
#[must_use]
pub fn add_trailer(builder: FrameBuilder) -> FrameBuilder {
    builder.message(&message(Msg::Trailer(Trailer::default())))
}

fn message(msg: Msg) -> ConnectRequest {
    ConnectRequest { msg: Some(msg) }
}

fn broken(error: &h2::Error) -> TunnelError {
    TunnelError::Broken(status_from(error))
}
