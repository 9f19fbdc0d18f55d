//! hyper's timer for the next head of a connection of HTTP/1.1.
//!
//! hyper begins a limit with each request and drops it when the head is there. As a timer of tokio's each would be put
//! into the runtime's wheel and taken out again; here a connection has one, which is moved when it fires.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use tokio::time::Instant;

/// A connection's timer. Only for limits of which one is there at a time, each later than the one before.
#[derive(Clone, Default)]
pub(super) struct HeadTimer(Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>);

/// A limit.
struct Limit {
    deadline: Instant,
    timer: HeadTimer,
}

impl HeadTimer {
    fn until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Limit {
            deadline,
            timer: self.clone(),
        })
    }
}

#[expect(clippy::disallowed_types, reason = "hyper's trait has this type")]
impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.until(deadline.into())
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

impl Future for Limit {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let mut timer = self.timer.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sleep = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

impl Sleep for Limit {}

impl fmt::Debug for HeadTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeadTimer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_limit_ends_at_its_own_time() {
        let (timer, limit) = (HeadTimer::default(), Duration::from_secs(60));
        let started = Instant::now();
        let mut first = timer.sleep(limit);
        assert!(tokio::time::timeout(limit / 2, &mut first).await.is_err());
        drop(first);

        timer.sleep(limit).await;
        assert_eq!(started.elapsed(), limit / 2 + limit);
        timer.sleep(limit).await;
        assert_eq!(started.elapsed(), limit / 2 + 2 * limit);
    }
}
