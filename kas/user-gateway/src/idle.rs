//! A timeout that progress restarts.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Fires when there is no progress for as long as its limit. It costs a timer only once it is polled.
#[derive(Debug)]
pub(crate) struct Idle {
    limit: Duration,
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    /// A limit that begins when it is polled first.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            since: None,
            sleep: None,
        }
    }

    /// The limit.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Something happened: the limit begins anew with the next poll.
    pub(crate) fn progress(&mut self) {
        self.since = None;
    }

    /// Ready when nothing happened for as long as the limit.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.since.get_or_insert_with(Instant::now) + self.limit;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(sleep.as_mut().poll(cx));
            // The timer is moved only when it fires: progress is much more frequent.
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn progress_moves_the_limit() {
        let limit = Duration::from_secs(10);
        let started = Instant::now();
        let mut idle = Idle::new(limit);
        let early = tokio::time::timeout(limit / 2, poll_fn(|cx| idle.poll(cx))).await;
        assert!(early.is_err());

        idle.progress();
        poll_fn(|cx| idle.poll(cx)).await;

        assert!(started.elapsed() >= limit + limit / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn time_counts_only_while_something_is_waited_for() {
        let limit = Duration::from_secs(10);
        let mut idle = Idle::new(limit);

        tokio::time::sleep(limit * 2).await;
        let waited = tokio::time::timeout(limit / 2, poll_fn(|cx| idle.poll(cx))).await;

        assert!(waited.is_err());
    }
}
