//! How a call ends: both streams are closed as their peers expect it.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use tonic::Status;

use super::{Call, Event, Path};

/// How long the rest of a finished answer is waited for.
const REST: Duration = Duration::from_secs(5);
/// How many events of the rest are looked at when a call is dropped.
const LOOK_AHEAD: usize = 8;

impl Call {
    /// Reads what is left of an answer whose content is complete, so that the
    /// stream ends in order rather than by a reset (a connection endures only
    /// so many resets). Bounded in time.
    pub async fn finish(mut self) {
        let rest = async {
            while let Ok(event) = self.event().await {
                if event == Event::End {
                    return;
                }
            }
        };
        // Cancelled or not, dropping the call ends its streams.
        let _ = tokio::time::timeout(REST, rest).await;
    }

    /// Looks whether the rest of the answer is here already; true if it is.
    pub fn finish_now(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..LOOK_AHEAD {
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
        } else {
            // OK would leave the agent's inner call running; an error cancels it.
            runtime::grpc::trailers(&Status::cancelled("the caller has gone"))
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
            Path::Peer(_) => self.end_peer(),
        }
    }
}
