//! What is hardly ever ready, waited for beside what often is.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// A future that is polled only when it was woken. Whatever is awaited beside a busy connection is polled with each of
/// its steps: a timer or a cancellation costs locks each time, this costs a look at a flag.
pub struct Rarely<F> {
    future: Pin<Box<F>>,
    woken: Arc<Woken>,
    /// Wakes `woken`.
    waker: Waker,
    /// Who is woken by it.
    task: Option<Waker>,
}

struct Woken {
    is_set: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_set.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F> Rarely<F> {
    /// Waits for this future.
    pub fn new(future: F) -> Self {
        let woken = Arc::new(Woken {
            is_set: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        Self {
            future: Box::pin(future),
            waker: woken.clone().into(),
            woken,
            task: None,
        }
    }

    /// Waits for another one in its place.
    pub fn set(&mut self, future: F) {
        self.future.set(future);
        self.woken.is_set.store(true, Ordering::Release);
    }
}

impl<F: Future> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let is_known = (this.task.as_ref()).is_some_and(|task| task.will_wake(cx.waker()));
        if is_known && !this.woken.is_set.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        if !is_known {
            this.task = Some(cx.waker().clone());
        }
        // Before the flag is taken back: who wakes it from here on finds the task.
        this.woken.task.register(cx.waker());
        this.woken.is_set.store(false, Ordering::Release);
        let polled = this
            .future
            .as_mut()
            .poll(&mut Context::from_waker(&this.waker));
        if polled.is_ready() {
            this.woken.is_set.store(true, Ordering::Release);
        }
        polled
    }
}

impl<F> fmt::Debug for Rarely<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rarely").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, time::Duration};

    use tokio::{
        sync::oneshot,
        time::{Instant, sleep},
    };

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_was_woken_and_by_whom_it_is_awaited() {
        let (sender, mut receiver) = oneshot::channel::<u8>();
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = polls.clone();
        let mut rarely = Rarely::new(poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut receiver).poll(cx)
        }));
        let mut beside = 0;
        poll_fn(|cx| {
            assert!(Pin::new(&mut rarely).poll(cx).is_pending());
            beside += 1;
            cx.waker().wake_by_ref();
            if beside < 100 {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        assert_eq!(polls.load(Ordering::Relaxed), 1);

        // Another task awaits it from here on.
        let awaiting = tokio::spawn(rarely);
        tokio::task::yield_now().await;
        sender.send(7).unwrap();

        assert_eq!(awaiting.await.unwrap(), Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn another_one_may_be_waited_for_in_its_place() {
        let started = Instant::now();
        let mut rarely = Rarely::new(sleep(Duration::from_secs(1)));
        (&mut rarely).await;
        rarely.set(sleep(Duration::from_secs(2)));
        (&mut rarely).await;

        assert_eq!(started.elapsed(), Duration::from_secs(3));
    }
}
