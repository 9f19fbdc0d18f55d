//! How fast agents leave a replica that drains. Pure.
//!
//! They leave one after the other, so that the other replicas and whatever
//! checks tokens meet a stream of new connections and no stampede.

use std::time::Duration;

/// When each connection's turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pacing {
    between: Duration,
}

impl Pacing {
    /// A pace for so many connections: `per_second`, and faster only if they
    /// would not all be told `within` that time.
    pub(super) fn new(connections: usize, per_second: u32, within: Duration) -> Self {
        let usual = Duration::from_secs(1) / per_second.max(1);
        let connections = u32::try_from(connections).unwrap_or(u32::MAX).max(1);
        Self {
            between: usual.min(within / connections),
        }
    }

    /// How long after the start the turn with this number (from 0) comes.
    /// `random` is uniform in `0.0..1.0`.
    pub(super) fn turn(&self, number: u32, random: f64) -> Duration {
        self.between.saturating_mul(number) + self.between.mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn few_agents_leave_at_the_usual_pace() {
        let pacing = Pacing::new(10, 100, MINUTE);

        assert_eq!(pacing.turn(0, 0.0), Duration::ZERO);
        assert_eq!(pacing.turn(9, 0.0), Duration::from_millis(90));
    }

    #[test]
    fn many_agents_leave_faster_to_be_told_in_time() {
        let pacing = Pacing::new(600_000, 100, MINUTE);

        assert_eq!(pacing.turn(300_000, 0.0), MINUTE / 2);
    }

    proptest! {
        #[test]
        fn turns_are_in_order_in_time_and_no_faster_than_needed(
            connections in 1_u32..1_000_000,
            per_second in 0_u32..10_000,
            seconds in 1_u64..4000,
            random in 0.0..1.0_f64,
        ) {
            let within = Duration::from_secs(seconds);
            let pacing = Pacing::new(connections as usize, per_second, within);

            let turn = |number| pacing.turn(number, random);

            prop_assert!(turn(connections - 1) <= within);
            prop_assert!(turn(connections / 2) <= turn(connections - 1));
            let pace = f64::from(per_second.max(1)).max(f64::from(connections) / within.as_secs_f64());
            let second = (pace.ceil() as u32 + 1).min(connections);
            // One second later at the earliest, but for what rounding takes.
            let slack = Duration::from_nanos(u64::from(second));
            prop_assert!(second == connections || turn(second) + slack >= Duration::from_secs(1));
        }
    }
}
