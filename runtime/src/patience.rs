//! Deadlines of what is there at once as a rule.

use std::{
    fmt,
    future::{Pending, pending},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    task::coop::{Unconstrained, unconstrained},
    time::{Timeout, error::Elapsed},
};

pin_project! {
    /// See [`within`].
    #[must_use = "nothing is waited for unless it is polled"]
    pub struct Within<F> {
        #[pin]
        future: F,
        limit: Duration,
        // A future that uses up its task's budget each time it is polled is given up all the same.
        timer: Option<Pin<Box<Unconstrained<Timeout<Pending<()>>>>>>,
    }
}

impl<F> fmt::Debug for Within<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Within");
        fields.field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// Waits for `future`, but no longer than `limit`, as [`tokio::time::timeout`] does. Where the answer is there at once
/// it costs no timer and no look at the clock, and no room for them, which is why it is used where that is the rule.
///
/// # Errors
/// [`Elapsed`], when it took longer.
pub fn within<F: Future>(limit: Duration, future: F) -> Within<F> {
    Within {
        future,
        limit,
        timer: None,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let begin = || Box::pin(unconstrained(tokio::time::timeout(*this.limit, pending())));
        let timer = this.timer.get_or_insert_with(begin);
        match timer.as_mut().poll(cx) {
            Poll::Ready(Err(elapsed)) => Poll::Ready(Err(elapsed)),
            // What is pending for ever does not end otherwise.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{poll_fn, ready};

    use tokio::{
        task::coop::consume_budget,
        time::{Instant, sleep},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_there_comes_and_what_is_late_is_given_up() {
        let limit = Duration::from_secs(10);
        let started = Instant::now();

        assert_eq!(within(limit, ready(1)).await, Ok(1));
        assert!(within(limit, sleep(limit / 2)).await.is_ok());
        assert!(within(limit, pending::<()>()).await.is_err());

        assert_eq!(started.elapsed(), limit / 2 + limit);
    }

    #[tokio::test]
    async fn what_uses_up_the_budget_of_its_task_is_given_up_too() {
        let limit = Duration::from_millis(10);
        let greedy = poll_fn(|cx| {
            while std::pin::pin!(consume_budget()).poll(cx).is_ready() {}
            Poll::<()>::Pending
        });

        assert!(within(limit, greedy).await.is_err());
    }
}
