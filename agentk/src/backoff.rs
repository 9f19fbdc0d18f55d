//! How long to wait before the next attempt. Pure.

use std::time::Duration;

use runtime::backoff::Backoff;

/// After the loss of the only connection: requests wait, so the jitter that
/// keeps a fleet apart is small.
const AT_ONCE: Duration = Duration::from_millis(50);
/// After the loss of one of several: nobody waits.
const SOON: Duration = Duration::from_millis(500);

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
    /// Whether nothing has failed since it had worked.
    good: bool,
}

impl Reconnect {
    pub(crate) const fn new() -> Self {
        Self {
            failed: Backoff::new(Duration::from_millis(200), Duration::from_secs(10), 1.8),
            refused: Backoff::new(Duration::from_secs(5), Duration::from_secs(60), 1.6),
            good: false,
        }
    }

    /// How long to wait after a connection that ended like this; at least what
    /// the server asked for. `covered` says that there is another connection;
    /// `random` is uniform in `0.0..1.0`.
    pub(crate) fn delay(
        &mut self,
        ended: Ended,
        covered: bool,
        hint: Option<Duration>,
        random: f64,
    ) -> Duration {
        let soon = if covered { SOON } else { AT_ONCE }.mul_f64(random);
        // What ends a good connection may hit the next one too.
        let was_good = std::mem::replace(&mut self.good, ended == Ended::Worked);
        let delay = match ended {
            Ended::Worked => {
                self.failed.reset();
                self.refused.reset();
                soon
            }
            Ended::Failed if was_good => soon,
            Ended::Failed => self.failed.next(random),
            Ended::Refused => self.refused.next(random),
        };
        delay.max(hint.unwrap_or_default())
    }
}

/// How long is left of a `delay` of a line that was covered and is not any more.
/// `random` is uniform in `0.0..1.0`.
pub(crate) fn hurried(delay: Duration, hint: Option<Duration>, random: f64) -> Duration {
    AT_ONCE
        .mul_f64(random)
        .max(hint.unwrap_or_default())
        .min(delay)
}

/// Tells a stream that the server ends at once, again and again, from one that
/// ends now and then.
#[derive(Debug)]
pub(crate) struct StreamBackoff {
    quick: u32,
    backoff: Backoff,
}

/// A stream that ends sooner did nothing.
const QUICK: Duration = Duration::from_millis(100);

impl StreamBackoff {
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

    /// How long to wait after a stream that failed and lived so long. What cuts a
    /// stream that was good is followed at once: calls may be waiting for it.
    pub(crate) fn after_failure(&mut self, lived: Duration, random: f64) -> Duration {
        if lived >= QUICK {
            self.reset();
            return AT_ONCE.mul_f64(random);
        }
        self.backoff.next(random)
    }

    /// How long to wait after a stream that was refused.
    pub(crate) fn after_refusal(&mut self, random: f64) -> Duration {
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
    fn a_connection_that_had_worked_is_followed_at_once_and_so_is_one_failure() {
        let mut reconnect = Reconnect::new();
        for _ in 0..50 {
            reconnect.delay(Ended::Failed, false, None, 1.0);
        }

        assert!(reconnect.delay(Ended::Worked, false, None, 0.99) < AT_ONCE);
        assert!(reconnect.delay(Ended::Failed, false, None, 0.99) < AT_ONCE);
        assert!(reconnect.delay(Ended::Failed, false, None, 0.99) > AT_ONCE);
        assert!(reconnect.delay(Ended::Failed, false, None, 0.99) < SECOND / 2);
    }

    #[test]
    fn a_line_that_is_covered_takes_its_time() {
        let mut reconnect = Reconnect::new();

        assert_eq!(reconnect.delay(Ended::Worked, true, None, 0.5), SOON / 2);
        assert_eq!(hurried(SOON / 2, None, 0.5), AT_ONCE / 2);
        assert_eq!(hurried(SOON / 2, Some(SECOND), 0.5), SOON / 2);
    }

    #[test]
    fn failures_wait_longer_up_to_a_limit_and_refusals_longer_still() {
        let mut reconnect = Reconnect::new();
        let mut last = |ended| {
            let delays = (0..50).map(|_| reconnect.delay(ended, false, None, 1.0));
            delays.last()
        };

        assert_eq!(last(Ended::Failed), Some(10 * SECOND));
        assert_eq!(last(Ended::Refused), Some(60 * SECOND));
    }

    #[test]
    fn the_server_may_ask_for_more() {
        let mut reconnect = Reconnect::new();
        let asked = Some(7 * SECOND);

        assert_eq!(
            reconnect.delay(Ended::Worked, false, asked, 0.5),
            7 * SECOND
        );
    }

    #[test]
    fn a_stream_that_was_good_is_followed_at_once_and_others_wait_longer_and_longer() {
        let mut hot = StreamBackoff::new(SECOND, 20 * SECOND);

        assert_eq!(hot.after_failure(Duration::ZERO, 1.0), SECOND);
        assert!(hot.after_failure(Duration::ZERO, 1.0) > SECOND);
        assert_eq!(hot.after_failure(SECOND, 1.0), AT_ONCE);
        assert_eq!(hot.after_failure(Duration::ZERO, 1.0), SECOND);
        assert!(hot.after_refusal(1.0) > SECOND);
    }

    #[test]
    fn the_second_quick_end_in_a_row_waits() {
        let mut hot = StreamBackoff::new(SECOND, 20 * SECOND);

        assert_eq!(hot.after_end(Duration::ZERO, 1.0), Duration::ZERO);
        assert_eq!(hot.after_end(Duration::ZERO, 1.0), SECOND);
        assert_eq!(hot.after_end(SECOND, 1.0), Duration::ZERO);
        assert_eq!(hot.after_end(Duration::ZERO, 1.0), Duration::ZERO);
    }
}
