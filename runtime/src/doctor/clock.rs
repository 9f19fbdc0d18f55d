//! Whether two clocks agree.

use std::time::{Duration, SystemTime};

use super::{
    remedies::Fault,
    report::{Finding, Report},
};

/// Tokens are good for seconds: more than this is worth a look.
const TOLERANCE: Duration = Duration::from_secs(5);
/// Tokens and certificates are refused from here on.
const LIMIT: Duration = Duration::from_secs(60);

/// The time in a header `Date`.
#[must_use]
pub fn http_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

/// Compares another's clock with this machine's. `took` is how long the answer with its time took.
pub fn check_clock(report: &mut Report, hop: &str, theirs: SystemTime, took: Duration) {
    let ours = SystemTime::now();
    let (ahead, by) = match theirs.duration_since(ours) {
        Ok(by) => ("ahead of", by),
        Err(error) => ("behind", error.duration()),
    };
    let seen = format!(
        "its clock is {:.1} s {ahead} this machine's",
        by.as_secs_f64()
    );
    let by = by.saturating_sub(took);
    let finding = if by > LIMIT {
        Finding::failed(Fault::ClockOff, seen)
    } else if by > TOLERANCE {
        Finding::warning(Fault::ClockOff, seen)
    } else {
        Finding::ok("agrees with this machine's within seconds")
    };
    report.add(hop, "clock", finding);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(seconds: i64, took: u64) -> Option<Fault> {
        let mut report = Report::default();
        let by = Duration::from_secs(seconds.unsigned_abs());
        let now = SystemTime::now();
        let theirs = if seconds < 0 { now - by } else { now + by };
        check_clock(&mut report, "kas", theirs, Duration::from_secs(took));
        report.checks[0].fault
    }

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        assert_eq!(fault(-9, 0), Some(Fault::ClockOff));
        assert_eq!(fault(3600, 1), Some(Fault::ClockOff));
        assert_eq!(fault(-9, 10), None);
        assert_eq!(fault(0, 0), None);
    }
}
