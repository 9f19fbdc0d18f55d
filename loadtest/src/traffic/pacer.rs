//! When requests begin, and when the traffic is over.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// A late wake-up that is the timer's own, not the load's.
const TIMER_RESOLUTION: Duration = Duration::from_millis(2);

/// Gives out the requests one by one, to whichever client is free.
#[derive(Debug)]
pub(super) struct Pacer {
    began: Instant,
    rate: Option<f64>,
    requests: u64,
    duration: Duration,
    next: AtomicU64,
}

/// Permission to send one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// Number of the request.
    pub(super) number: u64,
    /// The moment from which its latency counts.
    pub(super) due: Instant,
}

impl Pacer {
    pub(super) fn new(
        rate: Option<f64>,
        requests: Option<u64>,
        duration: Option<Duration>,
    ) -> Self {
        Self {
            began: Instant::now(),
            rate: rate.filter(|rate| *rate > 0.0),
            requests: requests.unwrap_or(u64::MAX),
            duration: duration.unwrap_or(Duration::MAX),
            next: AtomicU64::new(0),
        }
    }

    /// Waits for the next turn; `None` at the end.
    ///
    /// With a rate, turns have their moment whatever happened before: a client
    /// that comes late has made its request wait, and that counts.
    pub(super) async fn turn(&self) -> Option<Turn> {
        let number = self.next.fetch_add(1, Relaxed);
        if number >= self.requests {
            return None;
        }
        let due = match self.rate {
            None => Instant::now(),
            Some(rate) => self.moment(number, rate).await?,
        };
        (due - self.began < self.duration).then_some(Turn { number, due })
    }

    async fn moment(&self, number: u64, rate: f64) -> Option<Instant> {
        let offset = Duration::try_from_secs_f64(number as f64 / rate).ok()?;
        if offset >= self.duration {
            return None;
        }
        let intended = self.began + offset;
        if intended <= Instant::now() {
            return Some(intended);
        }
        sleep_until(intended).await;
        let woken = Instant::now();
        Some(if woken - intended <= TIMER_RESOLUTION {
            woken
        } else {
            intended
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_at_the_rate_and_lateness_counts() {
        let pacer = Pacer::new(Some(10.0), Some(3), None);
        let began = pacer.began;

        assert_eq!(pacer.turn().await.unwrap().due, began);
        tokio::time::advance(Duration::from_secs(1)).await;
        let late = pacer.turn().await.unwrap();

        assert_eq!(late.due, began + Duration::from_millis(100));
        assert_eq!(late.number, 1);
        assert!(pacer.turn().await.is_some());
        assert!(pacer.turn().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_duration_ends_it() {
        let pacer = Pacer::new(Some(10.0), None, Some(Duration::from_millis(250)));

        let mut turns = 0;
        while pacer.turn().await.is_some() {
            turns += 1;
        }

        assert_eq!(turns, 3);
    }
}
