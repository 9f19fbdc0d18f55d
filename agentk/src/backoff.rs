//! How long to wait before the next attempt. Pure.

use std::time::Duration;

use runtime::backoff::Backoff;

/// After a connection that had worked, everybody may come back at once; the
/// jitter keeps a fleet apart.
const AT_ONCE: Duration = Duration::from_millis(100);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It had worked.
    Worked,
    /// It had not.
    Failed,
    /// kas does not want this agent's token.
    Refused,
}

/// Waiting times between connections.
#[derive(Debug)]
pub(crate) struct Reconnect {
    failed: Backoff,
    refused: Backoff,
}

impl Reconnect {
    pub(crate) const fn new() -> Self {
        Self {
            failed: Backoff::new(Duration::from_millis(200), Duration::from_secs(10), 1.8),
            refused: Backoff::new(Duration::from_secs(5), Duration::from_secs(60), 1.6),
        }
    }

    /// How long to wait after a connection that ended like this; at least what
    /// the server asked for. `random` is uniform in `0.0..1.0`.
    pub(crate) fn delay(&mut self, ended: Ended, hint: Option<Duration>, random: f64) -> Duration {
        let delay = match ended {
            Ended::Worked => {
                self.failed.reset();
                self.refused.reset();
                AT_ONCE.mul_f64(random)
            }
            Ended::Failed => self.failed.next(random),
            Ended::Refused => self.refused.next(random),
        };
        delay.max(hint.unwrap_or_default())
    }
}

/// Tells a stream that the server ends at once, again and again, from one that
/// ends now and then.
#[derive(Debug)]
pub(crate) struct HotLoop {
    quick: u32,
    backoff: Backoff,
}

/// A stream that ends sooner did nothing.
const QUICK: Duration = Duration::from_millis(100);

impl HotLoop {
    pub(crate) const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            quick: 0,
            backoff: Backoff::new(initial, max, 1.6),
        }
    }

    /// How long to wait after a stream that ended in order and lived so long.
    pub(crate) fn after_end(&mut self, lived: Duration, random: f64) -> Duration {
        if lived >= QUICK {
            self.reset();
            return Duration::ZERO;
        }
        self.quick += 1;
        if self.quick < 2 {
            return Duration::ZERO;
        }
        self.backoff.next(random)
    }

    /// How long to wait after a stream that failed.
    pub(crate) fn after_failure(&mut self, random: f64) -> Duration {
        self.backoff.next(random)
    }

    /// It did something.
    pub(crate) fn reset(&mut self) {
        self.quick = 0;
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_connection_that_had_worked_is_followed_at_once() {
        let mut reconnect = Reconnect::new();
        for _ in 0..50 {
            reconnect.delay(Ended::Failed, None, 1.0);
        }

        assert!(reconnect.delay(Ended::Worked, None, 0.99) < AT_ONCE);
        assert!(reconnect.delay(Ended::Failed, None, 0.99) <= SECOND / 5);
    }

    #[test]
    fn failures_wait_longer_up_to_a_limit_and_refusals_longer_still() {
        let mut reconnect = Reconnect::new();
        let failed = (0..50)
            .map(|_| reconnect.delay(Ended::Failed, None, 1.0))
            .last();
        let refused = (0..50)
            .map(|_| reconnect.delay(Ended::Refused, None, 1.0))
            .last();

        assert_eq!(failed, Some(10 * SECOND));
        assert_eq!(refused, Some(60 * SECOND));
    }

    #[test]
    fn the_server_may_ask_for_more() {
        let mut reconnect = Reconnect::new();

        assert_eq!(
            reconnect.delay(Ended::Worked, Some(7 * SECOND), 0.5),
            7 * SECOND
        );
    }

    #[test]
    fn the_second_quick_end_in_a_row_waits() {
        let mut hot = HotLoop::new(SECOND, 20 * SECOND);

        assert_eq!(hot.after_end(Duration::ZERO, 1.0), Duration::ZERO);
        assert_eq!(hot.after_end(Duration::ZERO, 1.0), SECOND);
        assert_eq!(hot.after_end(SECOND, 1.0), Duration::ZERO);
        assert_eq!(hot.after_end(Duration::ZERO, 1.0), Duration::ZERO);
    }
}
