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

use super::caller::Permit;

/// Waits until the tunnel is taken or lost, or ends it when it was silent for too long.
#[derive(Debug)]
pub(super) struct IdleTunnel {
    watch: IdleWatch,
    silence: Option<Pin<Box<Sleep>>>,
    /// Whether it ends as soon as nobody has reserved it.
    retiring: bool,
    #[expect(dead_code, reason = "held for its Drop")]
    permit: Permit,
}

impl IdleTunnel {
    pub(super) fn new(watch: IdleWatch, permit: Permit, silence: Option<Duration>) -> Self {
        // With jitter, so that an agent's tunnels do not end all at once.
        let jitter = 1.0 - 0.25 * rand::random::<f64>();
        let silence = silence.map(|limit| Box::pin(tokio::time::sleep(limit.mul_f64(jitter))));
        Self {
            watch,
            silence,
            retiring: false,
            permit,
        }
    }

    /// Whose tunnel it is.
    pub(super) fn agent(&self) -> AgentId {
        self.watch.agent()
    }

    /// Ends the tunnel in order unless a call has it. One that is reserved ends when it is given back.
    pub(super) fn retire(&mut self) {
        self.retiring = true;
        self.watch.retire(&Status::ok(""));
    }
}

impl Future for IdleTunnel {
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
