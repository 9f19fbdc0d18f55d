//! Waiting times between attempts: exponential, capped, jittered.

use std::time::Duration;

/// Growing delays. Pure: the caller waits, and says when things went well.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    factor: f64,
    next: Duration,
}

impl Backoff {
    /// Delays from `initial`, times `factor` after each, up to `max`.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration, factor: f64) -> Self {
        Self {
            initial,
            max,
            factor,
            next: initial,
        }
    }

    /// The next delay: between half and all of the current step.
    ///
    /// `random` is uniform in `0.0..1.0`.
    pub fn next(&mut self, random: f64) -> Duration {
        let step = self.next;
        self.next = step.mul_f64(self.factor).min(self.max);
        step.mul_f64(0.5 + random / 2.0)
    }

    /// Starts again from the initial delay.
    pub fn reset(&mut self) {
        self.next = self.initial;
    }
}

/// Up to a tenth less than `period`, so that what began together does not end,
/// or come again, together.
#[must_use]
pub fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.9 + 0.1 * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_start_again_after_a_reset() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 3 * second, 2.0);

        assert_eq!(backoff.next(1.0), second);
        assert_eq!(backoff.next(1.0), 2 * second);
        assert_eq!(backoff.next(1.0), 3 * second);
        assert_eq!(backoff.next(0.0), 3 * second / 2);
        backoff.reset();
        assert_eq!(backoff.next(1.0), second);
    }
}
