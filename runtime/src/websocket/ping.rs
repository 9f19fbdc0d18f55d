//! When the next WebSocket ping is due.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::backoff::jittered;

/// A timer without a pause would never let its task wait.
const INTERVAL_MIN: Duration = Duration::from_millis(2);

/// A timer that is due at least every interval, a little earlier by chance so
/// that connections made together do not ping together.
#[derive(Debug)]
pub(super) struct PingTimer {
    interval: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl PingTimer {
    pub(super) fn new(interval: Duration) -> Self {
        let interval = interval.max(INTERVAL_MIN);
        Self {
            interval,
            sleep: Box::pin(sleep(jittered(interval))),
        }
    }

    /// Whether a ping is due; wakes the task when the next one is.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> bool {
        let mut due = false;
        while let Poll::Ready(()) = self.sleep.as_mut().poll(cx) {
            due = true;
            let next = Instant::now() + jittered(self.interval);
            self.sleep.as_mut().reset(next);
        }
        due
    }
}
