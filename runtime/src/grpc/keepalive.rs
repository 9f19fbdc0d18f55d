//! HTTP/2 pings: they keep a connection alive and find one that is half open.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use crate::io::Heard;

/// How often a connection is pinged, and what is expected of it.
#[derive(Debug, Clone, Copy)]
pub struct KeepaliveOptions {
    /// Time between pings.
    pub interval: Duration,
    /// How long nothing at all may come while an answer is awaited.
    pub timeout: Duration,
    /// The same while a call has begun and waits. A connection that answered so
    /// lately is not asked again for a call.
    pub in_use: Duration,
}

/// What sends pings.
pub trait Pinger {
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

/// Keepalive a connection, in its own task.
#[derive(Debug)]
pub struct Keepalive<P = h2::PingPong> {
    pings: P,
    pace: KeepaliveOptions,
    heard: Heard,
    /// What had been heard when the timer was set.
    mark: u32,
    timer: Pin<Box<Sleep>>,
    /// How long nothing at all may come, while that is watched.
    waiting: Option<Duration>,
    /// When a ping was sent that is not answered. HTTP/2 allows h2 no second one beside it.
    asked: Option<Instant>,
    /// When the other end was last known to be there.
    alive: Instant,
}

impl<P: Pinger> Keepalive<P> {
    /// Keepalive through `pings`; `jitter` (0 to 1) spreads the first over time.
    pub fn new(pings: P, heard: Heard, pace: KeepaliveOptions, jitter: f64) -> Self {
        let first = pace.interval.mul_f64(0.5 + jitter / 2.0);
        Self {
            pings,
            pace,
            mark: heard.mark(),
            heard,
            timer: Box::pin(tokio::time::sleep(first)),
            waiting: None,
            asked: None,
            alive: Instant::now(),
        }
    }

    /// A call depends on the connection now: asks at once, unless it has just
    /// answered, and expects the answer soon.
    pub fn probe(&mut self) {
        let in_use = self.pace.in_use;
        let watched = self.waiting.is_some_and(|limit| limit <= in_use);
        if watched || self.alive.elapsed() < in_use || self.pings_are_lost() {
            return;
        }
        if self.ask() {
            self.waiting = Some(in_use);
            self.wait(in_use);
        }
    }

    /// Whether pings do not arrive, as behind load balancers that drop them: the other end was heard since long after
    /// one, and did not answer it. Silence says nothing of a call then.
    fn pings_are_lost(&self) -> bool {
        let unanswered =
            |asked: Instant| self.alive.saturating_duration_since(asked) >= self.pace.in_use;
        self.asked.is_some_and(unanswered)
    }

    /// Sees to it that there is a ping on its way.
    fn ask(&mut self) -> bool {
        if self.asked.is_none() && self.pings.send() {
            self.asked = Some(Instant::now());
        }
        self.asked.is_some()
    }

    /// Waits until a ping stays unanswered. Cancel-safe.
    pub async fn timed_out(&mut self) {
        poll_fn(|cx| self.poll_timed_out(cx)).await;
    }

    /// Ready when a ping stays unanswered, and nothing else has come either. Whatever comes shows that the other end is
    /// there: its answer may be stuck behind a lot of data, and there are load balancers that drop pings.
    pub fn poll_timed_out(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked.is_some() && self.pings.poll_answer(cx).is_ready() {
                self.asked = None;
                self.is_alive();
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
            let heard = self.heard.mark() != self.mark;
            match (self.waiting, self.asked) {
                (Some(_), _) if !heard => return Poll::Ready(()),
                // No ping can be sent beside one that is lost: what came in its stead will do.
                (Some(_), _) | (None, Some(_)) if heard => self.is_alive(),
                (Some(_) | None, _) => {
                    if self.ask() {
                        self.waiting = Some(self.pace.timeout);
                        self.wait(self.pace.timeout);
                    } else {
                        self.wait(self.pace.interval);
                    }
                }
            }
        }
    }

    fn is_alive(&mut self) {
        self.waiting = None;
        self.alive = Instant::now();
        self.wait(self.pace.interval);
    }

    fn wait(&mut self, time: Duration) {
        self.mark = self.heard.mark();
        self.timer.as_mut().reset(Instant::now() + time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: KeepaliveOptions = KeepaliveOptions {
        interval: Duration::from_secs(50),
        timeout: Duration::from_secs(20),
        in_use: Duration::from_secs(5),
    };

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
        let mut pings = Keepalive::new(&mut peer, Heard::default(), PACE, 1.0);
        if let Some(after) = call_after {
            let _ = tokio::time::timeout(after, pings.timed_out()).await;
            pings.probe();
        }
        pings.timed_out().await;
        (begin.elapsed(), peer.pings)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_end_is_given_up_at_the_next_ping() {
        let (took, pings) = time_to_end(1, None).await;

        assert_eq!(took.as_secs(), (2 * PACE.interval + PACE.timeout).as_secs());
        assert_eq!(pings, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_finds_a_silent_end_out_at_once() {
        let call = Duration::from_secs(30);

        let (took, pings) = time_to_end(0, Some(call)).await;

        assert_eq!(took.as_secs(), (call + PACE.in_use).as_secs());
        assert_eq!(pings, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn where_pings_are_lost_what_comes_keeps_a_connection() {
        let mut peer = Peer {
            answers: 0,
            pings: 0,
        };
        let heard = Heard::default();
        let mut pings = Keepalive::new(&mut peer, heard.clone(), PACE, 1.0);
        // A call that is answered within a second, each minute.
        for _ in 0..10 {
            let pause = Duration::from_secs(59);
            let silent = tokio::time::timeout(pause, pings.timed_out()).await;
            assert!(silent.is_err());
            pings.probe();
            let answer = Duration::from_secs(1);
            let silent = tokio::time::timeout(answer, pings.timed_out()).await;
            assert!(silent.is_err());
            heard.mark_heard();
        }

        let begin = Instant::now();
        pings.timed_out().await;

        assert!(begin.elapsed() <= PACE.interval + 2 * PACE.timeout);
        drop(pings);
        assert_eq!(
            peer.pings, 1,
            "h2 has no second ping beside one that is not answered"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_hurries_a_ping_that_is_on_its_way() {
        let call = PACE.interval + Duration::from_secs(1);

        let (took, pings) = time_to_end(0, Some(call)).await;

        assert_eq!(took.as_secs(), (call + PACE.in_use).as_secs());
        assert_eq!(pings, 1);
    }
}
