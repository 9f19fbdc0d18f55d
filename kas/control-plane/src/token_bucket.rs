//! A token bucket that hands out turns, with how long to wait for each. Pure: the caller waits.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::RateLimit;

/// The turns of requests.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    limit: RateLimit,
    /// Below zero when turns were given in advance.
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(limit: RateLimit, now: Instant) -> Self {
        Self {
            limit,
            tokens: f64::from(limit.bucket_size),
            at: now,
        }
    }

    /// Takes a turn: how long to wait before using it. Nothing is taken when
    /// that is longer than `patience`.
    pub(crate) fn take(&mut self, now: Instant, patience: Duration) -> Option<Duration> {
        self.tokens = self.spare(now);
        self.at = now;
        let rate = self.limit.refill_rate_per_second;
        let missing = 1.0 - self.tokens;
        let wait = match missing > 0.0 {
            true => Duration::try_from_secs_f64(missing / rate).unwrap_or(Duration::MAX),
            false => Duration::ZERO,
        };
        if wait > patience {
            return None;
        }
        self.tokens -= 1.0;
        Some(wait)
    }
}

impl TokenBucket {
    /// Turns that can be taken at once.
    pub(crate) fn spare(&self, now: Instant) -> f64 {
        let rate = self.limit.refill_rate_per_second;
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        (self.tokens + refill).min(f64::from(self.limit.bucket_size))
    }

    /// Turns that can be taken at once when nobody has taken any.
    pub(crate) fn size(&self) -> f64 {
        f64::from(self.limit.bucket_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_through_then_turns_come_at_the_rate() {
        let limit = RateLimit {
            refill_rate_per_second: 2.0,
            bucket_size: 3,
        };
        let now = Instant::now();
        let mut bucket = TokenBucket::new(limit, now);
        let second = Duration::from_secs(1);

        let waits: Vec<_> = (0..5).map(|_| bucket.take(now, second)).collect();

        let half = Some(second / 2);
        let none = Some(Duration::ZERO);
        assert_eq!(waits, [none, none, none, half, Some(second)]);
        assert_eq!(
            bucket.take(now, second),
            None,
            "the third in a second waits too long"
        );
        assert_eq!(bucket.take(now + 2 * second, second), none);
    }
}
