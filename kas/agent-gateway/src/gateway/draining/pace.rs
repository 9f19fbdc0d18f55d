//! How fast agents leave a replica that drains. Pure.
//!
//! They leave one after the other, so that the other replicas and the control plane see a stream of new
//! connections and no burst.

use std::time::Duration;

use super::DrainSettings;

/// When each connection's turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) struct DrainPace {
    interval: Duration,
}

impl DrainPace {
    /// The pace for so many connections: the usual one, or a faster one if they would not all have their turn
    /// within `goaway_limit`.
    pub(in crate::gateway) fn new(connections: usize, settings: &DrainSettings) -> Self {
        let usual = Duration::from_secs(1) / settings.connections_per_second.max(1);
        let connections = u32::try_from(connections).unwrap_or(u32::MAX).max(1);
        Self {
            interval: usual.min(settings.goaway_limit / connections),
        }
    }

    /// How long after the start the turn with this number (from 0) comes. `random` is uniform in `0.0..1.0`.
    pub(in crate::gateway) fn turn(&self, number: u32, random: f64) -> Duration {
        self.interval.saturating_mul(number) + self.interval.mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn pace(connections: usize, connections_per_second: u32, goaway_limit: Duration) -> DrainPace {
        let settings = DrainSettings {
            connections_per_second,
            goaway_limit,
            ..DrainSettings::default()
        };
        DrainPace::new(connections, &settings)
    }

    #[test]
    fn few_agents_leave_at_the_usual_pace() {
        let pace = pace(10, 100, MINUTE);

        assert_eq!(pace.turn(0, 0.0), Duration::ZERO);
        assert_eq!(pace.turn(9, 0.0), Duration::from_millis(90));
    }

    #[test]
    fn many_agents_leave_faster_to_be_told_in_time() {
        let pace = pace(600_000, 100, MINUTE);

        assert_eq!(pace.turn(300_000, 0.0), MINUTE / 2);
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
            let pace = pace(connections as usize, per_second, within);

            let turn = |number| pace.turn(number, random);

            prop_assert!(turn(connections - 1) <= within);
            prop_assert!(turn(connections / 2) <= turn(connections - 1));
            let rate = f64::from(per_second.max(1)).max(f64::from(connections) / within.as_secs_f64());
            let second = (rate.ceil() as u32 + 1).min(connections);
            // One second later at the earliest, but for what rounding takes.
            let slack = Duration::from_nanos(u64::from(second));
            prop_assert!(second == connections || turn(second) + slack >= Duration::from_secs(1));
        }
    }
}
