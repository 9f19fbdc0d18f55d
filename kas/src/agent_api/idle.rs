//! An idle tunnel in its connection's task.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use router::{
    AgentId,
    tunnel::{IdleEnd, IdleWatch},
};
use tokio::time::Sleep;
use tonic::Status;

use super::caller::Place;

/// How long a native gRPC stream may be silent. Load balancers that take gRPC
/// apart cut silent streams, commonly after 60 s, and do not count HTTP/2
/// pings; nothing may be sent on an idle tunnel. So it is ended in order before
/// that, and the agent opens another at once. Inside WebSocket pings suffice.
pub(super) const SILENCE: Duration = Duration::from_secs(45);

/// Waits until a tunnel's idle life ends, or ends it when it was silent for
/// too long.
#[derive(Debug)]
pub(super) struct Idle {
    watch: IdleWatch,
    silence: Option<Pin<Box<Sleep>>>,
    /// It ends as soon as nobody has reserved it.
    retiring: bool,
    #[expect(dead_code, reason = "held for its Drop")]
    place: Place,
}

impl Idle {
    pub(super) fn new(watch: IdleWatch, place: Place, native: bool) -> Self {
        // Not all at once, so that some are always there.
        let silence = SILENCE.mul_f64(1.0 - 0.25 * rand::random::<f64>());
        let silence = native.then(|| Box::pin(tokio::time::sleep(silence)));
        Self {
            watch,
            silence,
            retiring: false,
            place,
        }
    }

    /// Whose tunnel it is.
    pub(super) fn agent(&self) -> AgentId {
        self.watch.agent()
    }

    /// Ends the tunnel in order unless a call has it. If somebody has reserved it
    /// and gives it back, it ends then.
    pub(super) fn retire(&mut self) {
        self.retiring = true;
        self.watch.retire(&Status::ok(""));
    }
}

impl Future for Idle {
    type Output = IdleEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IdleEnd> {
        if let Some(silence) = &mut self.silence
            && silence.as_mut().poll(cx).is_ready()
        {
            self.silence = None;
            self.retiring = true;
        }
        if self.retiring {
            self.watch.retire(&Status::ok(""));
        }
        Pin::new(&mut self.watch).poll(cx)
    }
}
