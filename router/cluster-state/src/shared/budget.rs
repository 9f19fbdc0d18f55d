//! The budget of store operations: a token bucket, so that a mistake or a storm
//! in one replica does not overload the store for all.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Budget {
    /// A full bucket.
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self {
            per_second: f64::from(per_second.max(1)),
            burst,
            tokens: burst,
            at: now,
        }
    }

    /// Takes up to `wanted` tokens; returns how many.
    pub(super) fn take(&mut self, wanted: usize, now: Instant) -> usize {
        self.refill(now);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let granted = f64::from(wanted).min(self.tokens.floor());
        self.tokens -= granted;
        granted as usize
    }

    /// Time until there is a token.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        self.refill(now);
        let missing = (1.0 - self.tokens).max(0.0);
        Duration::from_secs_f64(missing / self.per_second)
    }

    /// Tokens left.
    pub(super) fn left(&mut self, now: Instant) -> usize {
        self.refill(now);
        self.tokens as usize
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = now;
        self.tokens = (self.tokens + elapsed.as_secs_f64() * self.per_second).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(10, 20, start);

        assert_eq!(budget.take(15, start), 15);
        assert_eq!(budget.take(15, start), 5);
        assert_eq!(budget.take(1, start), 0);
        assert_eq!(budget.wait(start), Duration::from_millis(100));
        assert_eq!(budget.take(9, start + Duration::from_millis(500)), 5);
        assert_eq!(budget.left(start + Duration::from_secs(60)), 20);
    }
}
