//! Durations in flags.

use std::time::Duration;

use jiff::Timestamp;

/// A duration that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DurationError {
    /// It is not understood.
    #[error("give a duration such as 24h, 90m or 5s")]
    Malformed,
    /// It must not be zero.
    #[error("the duration must be above 0")]
    Zero,
}

/// Reads `24h`, `90m`, `5s`, `1h30m`, or `0`.
pub(super) fn parse(text: &str) -> Result<Duration, DurationError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or(DurationError::Malformed)
}

/// Like [`parse`], but not zero.
pub(super) fn parse_positive(text: &str) -> Result<Duration, DurationError> {
    match parse(text)? {
        Duration::ZERO => Err(DurationError::Zero),
        duration => Ok(duration),
    }
}

/// A time that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("give a time such as 2026-11-27T10:00:00Z, or a duration such as 24h")]
pub(super) struct TimeError;

/// Reads a time, or how long ago it was.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, TimeError> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = parse(text).map_err(|_| TimeError)?;
    Timestamp::now().checked_sub(ago).map_err(|_| TimeError)
}

/// Writes it as [`parse`] reads it.
pub(super) fn show(duration: Duration) -> String {
    jiff::SignedDuration::try_from(duration)
        .map_or_else(|_| format!("{duration:?}"), |it| format!("{it:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse("24h"), Ok(Duration::from_secs(86400)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        for bad in ["", "5", "-5s", "soon"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse_positive("0s").is_err());
        assert_eq!(show(Duration::from_secs(5400)), "1h 30m");
    }

    #[test]
    fn times_are_told_or_ago() {
        let told = "2026-11-27T10:00:00Z";
        assert_eq!(parse_time(told), Ok(told.parse().unwrap()));
        assert!(parse_time("24h").unwrap() < Timestamp::now());
        assert_eq!(parse_time("soon"), Err(TimeError));
    }
}
