//! HTTP/2 pings: they keep a connection alive and find one that is half open.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use runtime::io::Heard;
use tokio::time::{Instant, Sleep};

/// Time between pings, as GitLab's kas has it.
const INTERVAL: Duration = Duration::from_secs(50);
/// How long nothing at all may come while an answer is awaited.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The same while a call has begun and waits.
const IN_USE: Duration = Duration::from_secs(5);
/// A connection that answered so lately is not asked again for a call.
const LATELY: Duration = Duration::from_secs(5);

/// What sends pings.
pub(super) trait Pinger {
    /// Sends one; false when the connection is over, which reports that itself.
    fn send(&mut self) -> bool;
    /// Ready when the answer is here.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Pinger for h2::PingPong {
    fn send(&mut self) -> bool {
        self.send_ping(h2::Ping::opaque()).is_ok()
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_pong(cx).map(drop)
    }
}

/// Pings a connection, in its own task.
#[derive(Debug)]
pub(super) struct Pings<P = h2::PingPong> {
    pings: P,
    heard: Heard,
    /// What had been heard when the timer was set.
    mark: u32,
    timer: Pin<Box<Sleep>>,
    /// How long an answer may take, while one is awaited.
    waiting: Option<Duration>,
    answered: Instant,
}

impl<P: Pinger> Pings<P> {
    /// Pings through `pings`; `jitter` (0 to 1) spreads the first over time.
    pub(super) fn new(pings: P, heard: Heard, jitter: f64) -> Self {
        let first = INTERVAL.mul_f64(0.5 + jitter / 2.0);
        Self {
            pings,
            mark: heard.mark(),
            heard,
            timer: Box::pin(tokio::time::sleep(first)),
            waiting: None,
            answered: Instant::now(),
        }
    }

    /// A call depends on the connection now: asks at once, unless it has just
    /// answered, and expects the answer soon.
    pub(super) fn probe(&mut self) {
        if self.waiting.is_some_and(|limit| limit <= IN_USE) || self.answered.elapsed() < LATELY {
            return;
        }
        if self.waiting.is_some() || self.pings.send() {
            self.waiting = Some(IN_USE);
            self.wait(IN_USE);
        }
    }

    /// Waits until a ping stays unanswered. Cancel-safe.
    pub(super) async fn unanswered(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// Whatever comes shows that the agent is there: its answer may be stuck
    /// behind a lot of data.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting.is_some() && self.pings.poll_answer(cx).is_ready() {
                self.waiting = None;
                self.answered = Instant::now();
                self.wait(INTERVAL);
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
            match self.waiting {
                Some(_) if self.heard.mark() == self.mark => return Poll::Ready(()),
                Some(limit) => self.wait(limit),
                None if self.pings.send() => {
                    self.waiting = Some(TIMEOUT);
                    self.wait(TIMEOUT);
                }
                None => self.wait(INTERVAL),
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.mark = self.heard.mark();
        self.timer.as_mut().reset(Instant::now() + time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers the first so many pings.
    struct Peer {
        answers: usize,
        pings: usize,
    }

    impl Pinger for &mut Peer {
        fn send(&mut self) -> bool {
            self.pings += 1;
            true
        }

        fn poll_answer(&mut self, _: &mut Context<'_>) -> Poll<()> {
            if self.pings <= self.answers {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }
    }

    async fn time_to_end(answers: usize, call_after: Option<Duration>) -> (Duration, usize) {
        let mut peer = Peer { answers, pings: 0 };
        let begin = Instant::now();
        let mut pings = Pings::new(&mut peer, Heard::default(), 1.0);
        if let Some(after) = call_after {
            let _ = tokio::time::timeout(after, pings.unanswered()).await;
            pings.probe();
        }
        pings.unanswered().await;
        (begin.elapsed(), peer.pings)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_agent_is_given_up_at_the_next_ping() {
        let (took, pings) = time_to_end(1, None).await;

        assert_eq!(took.as_secs(), (2 * INTERVAL + TIMEOUT).as_secs());
        assert_eq!(pings, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_finds_a_silent_agent_out_at_once() {
        let call = Duration::from_secs(30);

        let (took, pings) = time_to_end(0, Some(call)).await;

        assert_eq!(took.as_secs(), (call + IN_USE).as_secs());
        assert_eq!(pings, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_hurries_a_ping_that_is_on_its_way() {
        let call = INTERVAL + Duration::from_secs(1);

        let (took, pings) = time_to_end(0, Some(call)).await;

        assert_eq!(took.as_secs(), (call + IN_USE).as_secs());
        assert_eq!(pings, 1);
    }
}
