//! A circuit breaker: open while what it stands for keeps failing, half open for a trial call now and then. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the circuit.
pub(super) const FAILURES_MAX: u32 = 5;
/// Between trials: a tenth of the time that the outage has lasted, so that its end is found soon where it was short.
const TRIAL_INTERVAL_PART: f64 = 0.1;
const TRIAL_INTERVAL_MIN: Duration = Duration::from_millis(250);
const TRIAL_INTERVAL_MAX: Duration = Duration::from_secs(15);
/// After this time another trial may go out: the first may wait for a server that is gone.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// What is known of the health of what is called.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// When the present row of failures began, and how the last one looked.
    outage: Option<(Instant, String)>,
}

#[derive(Debug)]
enum State {
    /// Calls go out.
    Closed { failures: u32 },
    /// None does until then.
    Open { until: Instant },
    /// One is out to see.
    HalfOpen { since: Instant },
}

/// Why a call was not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenCircuit {
    /// How long it has failed.
    pub(super) since: Duration,
    /// How the last failure looked.
    pub(super) last: String,
    /// When it is worth asking again.
    pub(super) again: Instant,
}

/// What a report changed, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// The circuit opened.
    Opened,
    /// The circuit closed again, after this long.
    Closed(Duration),
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed { failures: 0 },
            outage: None,
        }
    }
}

impl Breaker {
    /// Whether a call may go out. Whoever is let through must report.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), OpenCircuit> {
        let again = match self.state {
            State::Closed { .. } => return Ok(()),
            State::Open { until } => until,
            State::HalfOpen { since } => since + TRIAL_TIMEOUT,
        };
        if now < again {
            return Err(self.open_circuit(now, again));
        }
        self.state = State::HalfOpen { since: now };
        Ok(())
    }

    /// Whether calls go out.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// A call that was let through was not made after all: another may be the trial.
    pub(super) fn unused(&mut self, now: Instant) {
        if let State::HalfOpen { .. } = self.state {
            self.state = State::Open { until: now };
        }
    }

    /// A call was answered.
    pub(super) fn success(&mut self, now: Instant) -> Change {
        let opened = !self.is_closed();
        self.state = State::Closed { failures: 0 };
        match self.outage.take() {
            Some((since, _)) if opened => Change::Closed(now.saturating_duration_since(since)),
            Some(_) | None => Change::None,
        }
    }

    /// A call failed. `random` is uniform in `0.0..1.0`.
    pub(super) fn failure(&mut self, now: Instant, why: String, random: f64) -> Change {
        let since = self.outage.as_ref().map_or(now, |(since, _)| *since);
        self.outage = Some((since, why));
        let change = match self.state {
            State::Closed { failures } if failures + 1 < FAILURES_MAX => {
                let failures = failures + 1;
                self.state = State::Closed { failures };
                return Change::None;
            }
            State::Closed { .. } => Change::Opened,
            State::HalfOpen { .. } => Change::None,
            // One that was under way when the others had failed.
            State::Open { .. } => return Change::None,
        };
        let pause = trial_interval(now.saturating_duration_since(since));
        self.state = State::Open {
            until: now + pause.mul_f64(0.5 + random / 2.0),
        };
        change
    }

    /// It asked for a pause. Gives the one that is kept.
    pub(super) fn pause_for(&mut self, now: Instant, pause: Duration, why: String) -> Duration {
        self.outage.get_or_insert((now, why));
        let pause = pause.min(TRIAL_INTERVAL_MAX);
        self.state = State::Open { until: now + pause };
        pause
    }

    fn open_circuit(&self, now: Instant, again: Instant) -> OpenCircuit {
        let (since, last) = match &self.outage {
            Some((since, last)) => (now.saturating_duration_since(*since), last.clone()),
            None => (Duration::ZERO, String::new()),
        };
        OpenCircuit { since, last, again }
    }
}

fn trial_interval(outage: Duration) -> Duration {
    let part = outage.mul_f64(TRIAL_INTERVAL_PART);
    part.clamp(TRIAL_INTERVAL_MIN, TRIAL_INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(breaker: &mut Breaker, now: Instant, times: u32) -> Change {
        let fail = |_| breaker.failure(now, "refused".into(), 1.0);
        (0..times).map(fail).last().unwrap_or(Change::None)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());

        assert_eq!(failed(&mut breaker, now, FAILURES_MAX - 1), Change::None);
        assert_eq!(breaker.success(now), Change::None);
        assert_eq!(failed(&mut breaker, now, FAILURES_MAX - 1), Change::None);
        assert!(breaker.admit(now).is_ok());
        assert_eq!(failed(&mut breaker, now, 1), Change::Opened);

        let away = breaker.admit(now + Duration::from_millis(200)).unwrap_err();
        assert_eq!(away.last, "refused");
        assert_eq!(away.since, Duration::from_millis(200));
        assert_eq!(away.again, now + TRIAL_INTERVAL_MIN);
    }

    #[test]
    fn one_trial_at_a_time_decides() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        failed(&mut breaker, now, FAILURES_MAX);
        let later = now + TRIAL_INTERVAL_MIN;

        assert!(breaker.admit(later).is_ok());
        assert!(breaker.admit(later).is_err(), "a second trial");
        assert_eq!(failed(&mut breaker, later, 1), Change::None);
        let after = later + TRIAL_INTERVAL_MIN;
        assert!(breaker.admit(after).is_ok());
        assert_eq!(
            breaker.success(after),
            Change::Closed(2 * TRIAL_INTERVAL_MIN)
        );
        assert!(breaker.admit(after).is_ok() && breaker.admit(after).is_ok());
    }

    #[test]
    fn the_longer_an_outage_the_rarer_the_trials() {
        for (outage, interval) in [(1, 250), (3, 300), (60, 6_000), (3600, 15_000)] {
            let outage = Duration::from_secs(outage);
            assert_eq!(trial_interval(outage), Duration::from_millis(interval));
        }
    }

    #[test]
    fn a_trial_that_was_not_made_leaves_its_turn_to_another() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        failed(&mut breaker, now, FAILURES_MAX);
        let later = now + TRIAL_INTERVAL_MIN;
        assert!(breaker.admit(later).is_ok());

        breaker.unused(later);

        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn a_trial_that_never_reports_does_not_block_for_ever() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        failed(&mut breaker, now, FAILURES_MAX);
        let later = now + TRIAL_INTERVAL_MIN;
        assert!(breaker.admit(later).is_ok());

        let waits = breaker.admit(later).unwrap_err();

        assert!(breaker.admit(waits.again).is_ok());
    }

    #[test]
    fn a_pause_that_was_asked_for_is_kept_within_reason() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());

        breaker.pause_for(now, Duration::from_secs(3600), "429".into());

        assert!(breaker.admit(now + Duration::from_secs(14)).is_err());
        assert!(breaker.admit(now + TRIAL_INTERVAL_MAX).is_ok());
    }
}
