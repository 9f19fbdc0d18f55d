//! Log lines that anybody can cause as often as they like.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

/// Lines of one kind that are written in an interval; the others are counted.
const MAX_LINES: u32 = 50;
/// The same of what may go on for ever without harm.
const MAX_SPARSE_LINES: u32 = 3;
/// The interval, at whose end it is said how many lines were left out.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);

/// Bounds how many log lines of one kind are written: the first fifty of ten seconds, then one line
/// that says how many more there were. Made as a `static`, one for each kind of event.
#[derive(Debug)]
pub struct Repeats {
    event: &'static str,
    max_lines: u32,
    interval: Mutex<Interval>,
}

#[derive(Debug)]
struct Interval {
    ends: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Repeats {
    /// Lines about such an event.
    #[must_use]
    pub const fn new(event: &'static str) -> Self {
        Self::limited(event, MAX_LINES)
    }

    /// The same of an event that harms nobody: the first three of ten seconds, and the sum of the others.
    #[must_use]
    pub const fn sparse(event: &'static str) -> Self {
        Self::limited(event, MAX_SPARSE_LINES)
    }

    const fn limited(event: &'static str, max_lines: u32) -> Self {
        Self {
            event,
            max_lines,
            interval: Mutex::new(Interval {
                ends: None,
                lines: 0,
                left_out: 0,
            }),
        }
    }

    /// Whether the next line is to be written. If not, it is in the sum that is.
    pub fn admit(&'static self) -> bool {
        let now = Instant::now();
        let mut interval = self.lock();
        if interval.ends.is_none_or(|ends| now >= ends) {
            self.summarise(&mut interval);
            interval.ends = Some(now + SUMMARY_INTERVAL);
        }
        if interval.lines < self.max_lines {
            interval.lines += 1;
            return true;
        }
        interval.left_out += 1;
        if interval.left_out == 1
            && let (Some(ends), Ok(runtime)) = (interval.ends, Handle::try_current())
        {
            // It ends by itself within the interval, and nobody waits for it.
            runtime.spawn(async move {
                tokio::time::sleep_until(ends).await;
                self.summarise(&mut self.lock());
            });
        }
        false
    }

    /// Begins anew, and says what was left out.
    fn summarise(&self, interval: &mut Interval) {
        let left_out = std::mem::take(&mut interval.left_out);
        (interval.ends, interval.lines) = (None, 0);
        if left_out > 0 {
            tracing::info!(
                event = self.event,
                suppressed = left_out,
                interval_seconds = SUMMARY_INTERVAL.as_secs(),
                "log lines suppressed"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Interval> {
        self.interval.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_lines_are_written_and_the_others_summed_up() {
        static KNOCKS: Repeats = Repeats::new("knocks");
        let left_out = || KNOCKS.lock().left_out;

        let written = (0..5000).filter(|_| KNOCKS.admit()).count();

        assert_eq!(
            (written, left_out()),
            (MAX_LINES as usize, 5000 - u64::from(MAX_LINES))
        );
        tokio::time::sleep(SUMMARY_INTERVAL + Duration::from_millis(1)).await;
        assert_eq!(left_out(), 0, "it was said by itself");
        assert!(KNOCKS.admit(), "the next interval has lines of its own");
    }
}
