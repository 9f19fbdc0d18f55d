//! How fast events are reported: a burst, then at a rate. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two events, in the long run.
const EVENT_INTERVAL: Duration = Duration::from_millis(10);
/// Events that may be reported at once.
const BURST_EVENTS: u32 = 1000;

/// A limit on the rate of events.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    /// When everything reported so far would be through at the long-run rate.
    even: Option<Instant>,
}

impl RateLimit {
    /// How long to wait after reporting so many events.
    pub(super) fn after(&mut self, events: u32, now: Instant) -> Duration {
        let even = self.even.unwrap_or(now).max(now) + events * EVENT_INTERVAL;
        self.even = Some(even);
        even.duration_since(now)
            .saturating_sub(BURST_EVENTS * EVENT_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_does_not_wait_and_what_follows_it_does() {
        let (mut limit, now) = (RateLimit::default(), Instant::now());

        assert_eq!(limit.after(BURST_EVENTS, now), Duration::ZERO);
        assert_eq!(limit.after(100, now), 100 * EVENT_INTERVAL);
        assert_eq!(limit.after(100, now + 200 * EVENT_INTERVAL), Duration::ZERO);
        let later = now + 10 * BURST_EVENTS * EVENT_INTERVAL;
        assert_eq!(limit.after(BURST_EVENTS, later), Duration::ZERO);
        assert_eq!(
            limit.after(1, later),
            EVENT_INTERVAL,
            "a rest saves up one burst"
        );
    }
}
