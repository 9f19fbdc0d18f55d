//! When a failed attempt is repeated. Pure.
//!
//! How many repeats all calls together add is bounded elsewhere: each takes a turn of `gitlab.api_rate_limit`, and
//! when GitLab fails for everybody the circuit breaker lets one trial out at a time. Agents' modules, which have no
//! breaker, have a budget.

use std::time::Duration;

/// The first pause, before jitter.
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest: much shorter than the patience of those who wait.
const RETRY_BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Attempts of one request of a module, at most.
pub(super) const ATTEMPTS_MAX: u32 = 4;
/// Retries that may be saved up.
const RETRY_BUDGET_MAX: f64 = 10.0;
/// What each call adds to the retries saved up: when GitLab fails for
/// everybody, retries add a tenth to its load at most.
const RETRY_BUDGET_PER_CALL: f64 = 0.1;

/// How many retries all calls together may still make.
#[derive(Debug)]
pub(super) struct Budget(f64);

impl Default for Budget {
    fn default() -> Self {
        Self(RETRY_BUDGET_MAX)
    }
}

impl Budget {
    /// A call begins.
    pub(super) fn deposit(&mut self) {
        self.0 = (self.0 + RETRY_BUDGET_PER_CALL).min(RETRY_BUDGET_MAX);
    }

    /// Whether there is a retry left; it is taken.
    pub(super) fn withdraw(&mut self) -> bool {
        let left = self.0 >= 1.0;
        if left {
            self.0 -= 1.0;
        }
        left
    }
}

/// The pause before retry `number`, from 0: half of it is chance, so that
/// replicas that failed together do not come back together.
pub(super) fn pause(number: u32, random: f64) -> Duration {
    let pause = RETRY_BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(number));
    pause.min(RETRY_BACKOFF_MAX).mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_are_at_least_half() {
        assert_eq!(pause(0, 1.0), Duration::from_millis(100));
        assert_eq!(pause(2, 1.0), Duration::from_millis(400));
        assert_eq!(pause(2, 0.0), Duration::from_millis(200));
        assert_eq!(pause(40, 1.0), RETRY_BACKOFF_MAX);
    }

    #[test]
    fn when_everything_fails_a_tenth_is_retried() {
        let mut budget = Budget::default();
        let calls = 1000;

        let retries = (0..calls)
            .filter(|_| {
                budget.deposit();
                budget.withdraw()
            })
            .count();

        assert!((100..=111).contains(&retries), "{retries}");
    }
}
