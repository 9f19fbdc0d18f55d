//! Does a connection's work: reads, writes, pings, and notices when to leave.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use h2::{Ping, PingPong};
use proto::frame::Frame;
use runtime::{
    grpc::SendRequest,
    io::{ByteStream, Heard},
};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// How often a ping asks whether the other end is there: soon enough to notice
/// a connection that a load balancer has silently forgotten, and less often than
/// GitLab's kas minds (20 s).
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long nothing at all may come while the answer is awaited.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How a connection tells that no new calls can begin on it.
#[derive(Debug)]
pub(super) struct End {
    /// Cancelled then.
    pub(super) left: CancellationToken,
    /// Set before, if it is because the server said so.
    pub(super) told: Arc<AtomicBool>,
}

/// Works until the connection has ended, and tells `end` when no new calls can
/// begin on it: the server said so, or it broke.
pub(super) async fn drive(
    mut http2: h2::client::Connection<ByteStream, Frame>,
    probe: SendRequest,
    mut keepalive: Option<Keepalive>,
    end: End,
) {
    let mut probe = Some(probe);
    let mut left = std::pin::pin!(end.left.cancelled());
    poll_fn(|cx| {
        let dead = keepalive
            .as_mut()
            .is_some_and(|pings| pings.poll(cx).is_ready());
        if dead {
            tracing::warn!("kas does not answer pings; the connection is given up");
            return Poll::Ready(());
        }
        let polled = Pin::new(&mut http2).poll(cx);
        if probe.is_some() && left.as_mut().poll(cx).is_ready() {
            // The connection ends when nobody holds it any more.
            probe = None;
        }
        // After a GOAWAY the connection lives on, but takes no new calls.
        if let Some(requests) = &mut probe
            && let Poll::Ready(Err(_)) = requests.poll_ready(cx)
        {
            probe = None;
            end.told.store(polled.is_pending(), Ordering::Relaxed);
            end.left.cancel();
        }
        polled.map(|result| {
            if let Err(error) = result {
                tracing::debug!(%error, "the connection to kas broke");
            }
        })
    })
    .await;
    end.left.cancel();
}

/// Pings, and notices that nobody answers.
#[derive(Debug)]
pub(super) struct Keepalive<P = PingPong> {
    pings: P,
    heard: Heard,
    /// What had been heard when the timer was set.
    mark: u32,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

/// What sends pings.
pub(super) trait Pings {
    /// Sends one; its answer is not here yet.
    fn send(&mut self);
    /// Ready when the answer is here.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Pings for PingPong {
    fn send(&mut self) {
        // Fails only when the connection is ending.
        let _ = self.send_ping(Ping::opaque());
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_pong(cx).map(drop)
    }
}

impl<P: Pings> Keepalive<P> {
    pub(super) fn new(pings: P, heard: Heard) -> Self {
        Self {
            pings,
            mark: heard.mark(),
            heard,
            timer: Box::pin(tokio::time::sleep(PING_INTERVAL)),
            waiting: false,
        }
    }

    /// Ready when the other end is gone. Whatever comes shows that it is not:
    /// the answer may be stuck behind a lot of data.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting && self.pings.poll_answer(cx).is_ready() {
                self.waiting = false;
                self.wait(PING_INTERVAL);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if !self.waiting {
                self.pings.send();
                self.waiting = true;
            } else if self.heard.mark() == self.mark {
                return Poll::Ready(());
            }
            self.wait(PING_TIMEOUT);
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

    impl Pings for &mut Peer {
        fn send(&mut self) {
            self.pings += 1;
        }

        fn poll_answer(&mut self, _: &mut Context<'_>) -> Poll<()> {
            if self.pings <= self.answers {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_answering_is_given_up_after_the_timeout() {
        let mut peer = Peer {
            answers: 2,
            pings: 0,
        };
        let begin = Instant::now();

        let mut keepalive = Keepalive::new(&mut peer, Heard::default());
        poll_fn(|cx| keepalive.poll(cx)).await;

        let expected = 3 * PING_INTERVAL + PING_TIMEOUT;
        let took = begin.elapsed();
        assert!(
            took >= expected && took < expected + Duration::from_secs(1),
            "{took:?}"
        );
        assert_eq!(peer.pings, 3);
    }
}
