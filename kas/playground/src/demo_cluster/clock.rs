//! Wall-clock time that follows tokio's clock, and how Kubernetes writes it.

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant};

/// Reads the wall clock once and then counts on tokio's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    wall: Timestamp,
    started: Instant,
}

impl Clock {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self {
            wall: Timestamp::now(),
            started: Instant::now(),
        }
    }

    /// The time of day.
    pub(crate) fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.started.elapsed()).unwrap_or_default();
        self.wall.saturating_add(passed).unwrap_or(self.wall)
    }

    /// The instant at which this clock will show `time`; now, if that has passed.
    pub(crate) fn instant(&self, time: Timestamp) -> Instant {
        let ahead = Duration::try_from(time.duration_since(self.now())).unwrap_or_default();
        Instant::now() + ahead
    }
}

/// A time as in `metadata.creationTimestamp`.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as in the fields of a lease.
pub(crate) fn microseconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// A time as at the beginning of a log line.
pub(crate) fn nanoseconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// How long ago `since` was, as kubectl's AGE column says it.
pub(crate) fn age(since: &str, now: Timestamp) -> String {
    match since.parse::<Timestamp>() {
        Ok(since) => human(now.duration_since(since).as_secs().max(0)),
        Err(_) => "<unknown>".to_owned(),
    }
}

fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => pair(days, 'd', hours % 24, 'h'),
        () if years < 2 => format!("{days}d"),
        () => pair(years, 'y', days % 365, 'd'),
    }
}

fn pair(large: i64, unit: char, small: i64, small_unit: char) -> String {
    if small == 0 {
        return format!("{large}{unit}");
    }
    format!("{large}{unit}{small}{small_unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        let said: Vec<_> = [5, 119, 125, 600, 10_800, 14_460, 90_000, 180_000, 864_000]
            .into_iter()
            .map(human)
            .collect();

        assert_eq!(
            said,
            [
                "5s", "119s", "2m5s", "10m", "3h", "4h1m", "25h", "2d2h", "10d"
            ]
        );
    }
}
