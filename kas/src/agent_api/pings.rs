//! HTTP/2 pings: they keep a connection alive and find one that is half open.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;

/// Time between pings, as GitLab's kas has it.
const INTERVAL: Duration = Duration::from_secs(50);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Pings a connection, in its own task.
#[derive(Debug)]
pub(super) struct Pings {
    pings: h2::PingPong,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Pings {
    /// Pings through `pings`; `jitter` (0 to 1) spreads the first over time.
    pub(super) fn new(pings: h2::PingPong, jitter: f64) -> Self {
        let first = INTERVAL.mul_f64(0.5 + jitter / 2.0);
        Self {
            pings,
            timer: Box::pin(tokio::time::sleep(first)),
            waiting: false,
        }
    }

    /// Waits until a ping stays unanswered. Cancel-safe.
    pub(super) async fn unanswered(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting && self.pings.poll_pong(cx).is_ready() {
                self.waiting = false;
                self.wait(INTERVAL);
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
            if self.waiting {
                return Poll::Ready(());
            }
            // A connection that is over reports that itself.
            self.waiting = self.pings.send_ping(h2::Ping::opaque()).is_ok();
            self.wait(if self.waiting { TIMEOUT } else { INTERVAL });
        }
    }

    fn wait(&mut self, time: Duration) {
        self.timer
            .as_mut()
            .reset(tokio::time::Instant::now() + time);
    }
}
