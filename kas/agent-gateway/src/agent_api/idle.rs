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
    pub(super) fn new(watch: IdleWatch, place: Place, silence: Option<Duration>) -> Self {
        // Not all at once, so that some are always there.
        let jitter = 1.0 - 0.25 * rand::random::<f64>();
        let silence = silence.map(|limit| Box::pin(tokio::time::sleep(limit.mul_f64(jitter))));
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
