//! Deadlines of what is there at once as a rule.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::time::error::Elapsed;

/// Waits for `future`, but no longer than `limit`, as [`tokio::time::timeout`] does. Where the answer is there at once
/// it costs no timer and no look at the clock, which is why it is used where that is the rule.
///
/// # Errors
/// [`Elapsed`], when it took longer.
pub async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let first = poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    });
    match first.await {
        Some(output) => Ok(output),
        None => tokio::time::timeout(limit, future).await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{Instant, sleep};

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
}
