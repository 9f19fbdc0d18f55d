//! The end of a call: its stream is closed as the other side expects it.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use tonic::Status;

use super::{Call, Event, Path};

/// How long the rest of a complete response is waited for.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Events that are polled for when a call is finished without waiting.
const MAX_LOOK_AHEAD: usize = 8;

impl Call {
    /// Reads the rest of a response whose content is complete, so that the stream
    /// ends in order rather than by a reset (HTTP/2 peers limit resets per
    /// connection). Bounded in time.
    pub async fn finish(mut self) {
        let rest = async {
            while let Ok(event) = self.event().await {
                if event == Event::End {
                    return;
                }
            }
        };
        // Cancelled or not, dropping the call ends its streams.
        let _ = tokio::time::timeout(FINISH_TIMEOUT, rest).await;
    }

    /// Whether the rest of the response is here already. Does not wait.
    pub fn finish_now(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..MAX_LOOK_AHEAD {
            if self.ended || self.broken {
                return true;
            }
            if self.poll_event(&mut cx).is_pending() {
                return false;
            }
        }
        self.ended || self.broken
    }

    fn end_tunnel(&mut self) {
        let status = if self.ended {
            runtime::grpc::ok_trailers()
        } else if self.lost {
            runtime::grpc::trailers(&Status::unavailable("the caller of the call was lost"))
        } else {
            // OK would leave the call to the Kubernetes API running; an error cancels it.
            runtime::grpc::trailers(&Status::cancelled("the caller cancelled the call"))
        };
        // Fails only when the stream is gone.
        let _ = self.send.send_trailers(status);
    }

    fn end_peer(&mut self) {
        if !self.ended {
            self.send.send_reset(h2::Reason::CANCEL);
        } else if !self.send_closed {
            // Fails only when the stream is gone.
            let _ = self.send.send_data(proto::frame::Frame::default(), true);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        match self.path {
            Path::Tunnel(_) => self.end_tunnel(),
            Path::Peer(..) => self.end_peer(),
        }
    }
}
