//! Stops asking an endpoint that keeps failing, and tries it now and then. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which nobody is sent any more.
const FAILURES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// After this time a trial that never reported is given up.
const TRIAL: Duration = Duration::from_secs(15);

/// What is known of an endpoint's health.
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
    Open { until: Instant, pause: Duration },
    /// One is out to see.
    Trial { since: Instant, pause: Duration },
}

/// Nobody is asked at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Away {
    /// How long it has failed.
    pub(super) since: Duration,
    /// How the last failure looked.
    pub(super) last: String,
}

/// What a report changed, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// It is given up for now.
    Opened,
    /// It works again, after this long.
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
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Away> {
        let pause = match self.state {
            State::Closed { .. } => return Ok(()),
            State::Open { until, pause } if until <= now => pause,
            State::Trial { since, pause } if since + TRIAL <= now => pause,
            State::Open { .. } | State::Trial { .. } => return Err(self.away(now)),
        };
        self.state = State::Trial { since: now, pause };
        Ok(())
    }

    /// A call that was let through was not made after all: another may be the trial.
    pub(super) fn unused(&mut self, now: Instant) {
        if let State::Trial { pause, .. } = self.state {
            self.state = State::Open { until: now, pause };
        }
    }

    /// A call was answered.
    pub(super) fn success(&mut self, now: Instant) -> Change {
        let opened = !matches!(self.state, State::Closed { .. });
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
        let (pause, change) = match self.state {
            State::Closed { failures } if failures + 1 < FAILURES => {
                let failures = failures + 1;
                self.state = State::Closed { failures };
                return Change::None;
            }
            State::Closed { .. } => (FIRST_PAUSE, Change::Opened),
            State::Trial { pause, .. } => ((pause * 2).min(LONGEST_PAUSE), Change::None),
            // One that was under way when the others had failed.
            State::Open { .. } => return Change::None,
        };
        self.open(now + pause.mul_f64(0.5 + random / 2.0), pause);
        change
    }

    /// It asked for a pause.
    pub(super) fn rest(&mut self, now: Instant, pause: Duration, why: String) {
        self.outage.get_or_insert((now, why));
        self.open(now + pause.min(LONGEST_PAUSE), FIRST_PAUSE);
    }

    fn open(&mut self, until: Instant, pause: Duration) {
        self.state = State::Open { until, pause };
    }

    fn away(&self, now: Instant) -> Away {
        let (since, last) = match &self.outage {
            Some((since, last)) => (now.saturating_duration_since(*since), last.clone()),
            None => (Duration::ZERO, String::new()),
        };
        Away { since, last }
    }
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

        assert_eq!(failed(&mut breaker, now, FAILURES - 1), Change::None);
        assert_eq!(breaker.success(now), Change::None);
        assert_eq!(failed(&mut breaker, now, FAILURES - 1), Change::None);
        assert!(breaker.admit(now).is_ok());
        assert_eq!(failed(&mut breaker, now, 1), Change::Opened);

        let away = breaker.admit(now + Duration::from_millis(900)).unwrap_err();
        assert_eq!(away.last, "refused");
        assert_eq!(away.since, Duration::from_millis(900));
    }

    #[test]
    fn one_trial_at_a_time_decides() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        failed(&mut breaker, now, FAILURES);
        let later = now + FIRST_PAUSE;

        assert!(breaker.admit(later).is_ok());
        assert!(breaker.admit(later).is_err(), "a second trial");
        assert_eq!(failed(&mut breaker, later, 1), Change::None);
        assert!(breaker.admit(later + FIRST_PAUSE).is_err(), "pauses grow");
        let after = later + 2 * FIRST_PAUSE;
        assert!(breaker.admit(after).is_ok());
        assert_eq!(breaker.success(after), Change::Closed(3 * FIRST_PAUSE));
        assert!(breaker.admit(after).is_ok() && breaker.admit(after).is_ok());
    }

    #[test]
    fn a_trial_that_was_not_made_leaves_its_turn_to_another() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        failed(&mut breaker, now, FAILURES);
        let later = now + FIRST_PAUSE;
        assert!(breaker.admit(later).is_ok());

        breaker.unused(later);

        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn a_trial_that_never_reports_does_not_block_for_ever() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        failed(&mut breaker, now, FAILURES);
        assert!(breaker.admit(now + FIRST_PAUSE).is_ok());

        assert!(breaker.admit(now + FIRST_PAUSE + TRIAL).is_ok());
    }

    #[test]
    fn a_pause_that_was_asked_for_is_kept_within_reason() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());

        breaker.rest(now, Duration::from_secs(3600), "429".into());

        assert!(breaker.admit(now + Duration::from_secs(14)).is_err());
        assert!(breaker.admit(now + LONGEST_PAUSE).is_ok());
    }
}
