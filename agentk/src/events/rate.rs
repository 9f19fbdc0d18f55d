//! How fast events are told: a burst, then at a rate. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Between two events, in the long run.
const INTERVAL: Duration = Duration::from_millis(10);
/// Events that may be told at once.
const BURST: u32 = 1000;

/// The rate of events.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When all that was told would have been told at the rate.
    even: Option<Instant>,
}

impl Pace {
    /// How long to wait behind so many events.
    pub(super) fn told(&mut self, events: u32, now: Instant) -> Duration {
        let even = self.even.unwrap_or(now).max(now) + events * INTERVAL;
        self.even = Some(even);
        even.duration_since(now).saturating_sub(BURST * INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_does_not_wait_and_what_follows_it_does() {
        let (mut pace, now) = (Pace::default(), Instant::now());

        assert_eq!(pace.told(BURST, now), Duration::ZERO);
        assert_eq!(pace.told(100, now), 100 * INTERVAL);
        assert_eq!(pace.told(100, now + 200 * INTERVAL), Duration::ZERO);
        let later = now + 10 * BURST * INTERVAL;
        assert_eq!(pace.told(BURST, later), Duration::ZERO);
        assert_eq!(pace.told(1, later), INTERVAL, "a rest saves up one burst");
    }
}
