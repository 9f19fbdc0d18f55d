//! How long to wait before the next attempt. Pure.

use std::time::Duration;

use runtime::backoff::Backoff;

/// Longest wait after the loss of the only connection: requests wait, so the jitter that spreads a
/// fleet is small.
const UNCOVERED_DELAY_MAX: Duration = Duration::from_millis(50);
/// Longest wait after the loss of one of several connections: no request waits.
const COVERED_DELAY_MAX: Duration = Duration::from_millis(500);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// kas had accepted the agent on it.
    Worked,
    /// It was not made, or ended before that.
    Failed,
    /// kas does not accept this agent's token.
    Refused,
}

/// Delays between connections.
#[derive(Debug)]
pub(crate) struct ReconnectBackoff {
    failed: Backoff,
    refused: Backoff,
    /// Whether the last connection had worked.
    succeeded: bool,
}

impl ReconnectBackoff {
    pub(crate) const fn new() -> Self {
        Self {
            failed: Backoff::new(Duration::from_millis(200), Duration::from_secs(10), 1.8),
            refused: Backoff::new(Duration::from_secs(5), Duration::from_secs(60), 1.6),
            succeeded: false,
        }
    }

    /// How long to wait after a connection with this outcome; at least what the
    /// server asked for. `covered` says that there is another connection;
    /// `random` is uniform in `0.0..1.0`.
    pub(crate) fn delay(
        &mut self,
        outcome: Outcome,
        covered: bool,
        retry_after: Option<Duration>,
        random: f64,
    ) -> Duration {
        let at_once = if covered {
            COVERED_DELAY_MAX
        } else {
            UNCOVERED_DELAY_MAX
        }
        .mul_f64(random);
        // What ends a good connection may hit the next one too.
        let had_succeeded = std::mem::replace(&mut self.succeeded, outcome == Outcome::Worked);
        let delay = match outcome {
            Outcome::Worked => {
                self.failed.reset();
                self.refused.reset();
                at_once
            }
            Outcome::Failed if had_succeeded => at_once,
            Outcome::Failed => self.failed.next(random),
            Outcome::Refused => self.refused.next(random),
        };
        delay.max(retry_after.unwrap_or_default())
    }
}

/// What is left of the `delay` of a line that was covered and is not any more.
/// `random` is uniform in `0.0..1.0`.
pub(crate) fn shortened(delay: Duration, retry_after: Option<Duration>, random: f64) -> Duration {
    UNCOVERED_DELAY_MAX
        .mul_f64(random)
        .max(retry_after.unwrap_or_default())
        .min(delay)
}

/// Delays between streams: none after one that lasted, more and more after those that the server
/// ends at once.
#[derive(Debug)]
pub(crate) struct StreamBackoff {
    short_streams: u32,
    backoff: Backoff,
}

/// A stream that ends sooner counts as one that did nothing.
const MIN_STREAM_LIFETIME: Duration = Duration::from_millis(100);

impl StreamBackoff {
    pub(crate) const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            short_streams: 0,
            backoff: Backoff::new(initial, max, 1.6),
        }
    }

    /// How long to wait after a stream that ended in order.
    pub(crate) fn after_end(&mut self, lifetime: Duration, random: f64) -> Duration {
        if lifetime >= MIN_STREAM_LIFETIME {
            self.reset();
            return Duration::ZERO;
        }
        self.short_streams += 1;
        if self.short_streams < 2 {
            return Duration::ZERO;
        }
        self.backoff.next(random)
    }

    /// How long to wait after a stream that failed. One that had lasted is opened again
    /// at once: calls may be waiting for it.
    pub(crate) fn after_failure(&mut self, lifetime: Duration, random: f64) -> Duration {
        if lifetime >= MIN_STREAM_LIFETIME {
            self.reset();
            return UNCOVERED_DELAY_MAX.mul_f64(random);
        }
        self.backoff.next(random)
    }

    /// How long to wait after a stream that was refused.
    pub(crate) fn after_refusal(&mut self, random: f64) -> Duration {
        self.backoff.next(random)
    }

    /// Notes that a stream did something.
    pub(crate) fn reset(&mut self) {
        self.short_streams = 0;
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn after_a_connection_that_worked_and_after_one_failure_the_next_comes_at_once() {
        let mut reconnect = ReconnectBackoff::new();
        for _ in 0..50 {
            reconnect.delay(Outcome::Failed, false, None, 1.0);
        }

        assert!(reconnect.delay(Outcome::Worked, false, None, 0.99) < UNCOVERED_DELAY_MAX);
        assert!(reconnect.delay(Outcome::Failed, false, None, 0.99) < UNCOVERED_DELAY_MAX);
        assert!(reconnect.delay(Outcome::Failed, false, None, 0.99) > UNCOVERED_DELAY_MAX);
        assert!(reconnect.delay(Outcome::Failed, false, None, 0.99) < SECOND / 2);
    }

    #[test]
    fn a_covered_line_waits_longer() {
        let mut reconnect = ReconnectBackoff::new();

        assert_eq!(
            reconnect.delay(Outcome::Worked, true, None, 0.5),
            COVERED_DELAY_MAX / 2
        );
        assert_eq!(
            shortened(COVERED_DELAY_MAX / 2, None, 0.5),
            UNCOVERED_DELAY_MAX / 2
        );
        assert_eq!(
            shortened(COVERED_DELAY_MAX / 2, Some(SECOND), 0.5),
            COVERED_DELAY_MAX / 2
        );
    }

    #[test]
    fn failures_wait_longer_up_to_a_limit_and_refusals_longer_still() {
        let mut reconnect = ReconnectBackoff::new();
        let mut last = |outcome| {
            let delays = (0..50).map(|_| reconnect.delay(outcome, false, None, 1.0));
            delays.last()
        };

        assert_eq!(last(Outcome::Failed), Some(10 * SECOND));
        assert_eq!(last(Outcome::Refused), Some(60 * SECOND));
    }

    #[test]
    fn the_server_may_ask_for_more() {
        let mut reconnect = ReconnectBackoff::new();
        let asked = Some(7 * SECOND);

        assert_eq!(
            reconnect.delay(Outcome::Worked, false, asked, 0.5),
            7 * SECOND
        );
    }

    #[test]
    fn a_stream_that_had_succeeded_is_followed_at_once_and_others_wait_longer_and_longer() {
        let mut backoff = StreamBackoff::new(SECOND, 20 * SECOND);

        assert_eq!(backoff.after_failure(Duration::ZERO, 1.0), SECOND);
        assert!(backoff.after_failure(Duration::ZERO, 1.0) > SECOND);
        assert_eq!(backoff.after_failure(SECOND, 1.0), UNCOVERED_DELAY_MAX);
        assert_eq!(backoff.after_failure(Duration::ZERO, 1.0), SECOND);
        assert!(backoff.after_refusal(1.0) > SECOND);
    }

    #[test]
    fn the_second_quick_end_in_a_row_waits() {
        let mut backoff = StreamBackoff::new(SECOND, 20 * SECOND);

        assert_eq!(backoff.after_end(Duration::ZERO, 1.0), Duration::ZERO);
        assert_eq!(backoff.after_end(Duration::ZERO, 1.0), SECOND);
        assert_eq!(backoff.after_end(SECOND, 1.0), Duration::ZERO);
        assert_eq!(backoff.after_end(Duration::ZERO, 1.0), Duration::ZERO);
    }
}
