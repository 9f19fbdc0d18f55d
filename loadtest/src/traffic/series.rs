//! What became of requests over time, by the moment at which each was due.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Intervals that are told apart; what is due later counts with the last.
const MAX_SLOTS: usize = 4096;
const DIGITS: u8 = 2;

/// Counts by interval, shared by all clients of one kind of traffic.
#[derive(Debug)]
pub(crate) struct Series {
    began: Instant,
    every: Duration,
    slots: Mutex<Vec<Slot>>,
}

#[derive(Debug)]
struct Slot {
    latencies: Histogram<u32>,
    failed: u64,
    longest: Duration,
}

/// One interval: latencies in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Seconds from the beginning of the run to that of the interval.
    pub(crate) at: f64,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    /// The longest of all, failed ones included.
    pub(crate) longest: f64,
}

impl Slot {
    fn new() -> Self {
        Self {
            latencies: Histogram::new(DIGITS).expect("the number of digits is valid"),
            failed: 0,
            longest: Duration::ZERO,
        }
    }
}

impl Series {
    /// Intervals of this length from `began` on.
    pub(crate) fn new(began: Instant, every: Duration) -> Self {
        Self {
            began,
            every: every.max(Duration::from_millis(1)),
            slots: Mutex::default(),
        }
    }

    /// Counts a request that was due at `due` and is over after `took`.
    pub(super) fn over(&self, due: Instant, took: Duration, succeeded: bool) {
        let place = due.saturating_duration_since(self.began).as_secs_f64();
        let place = (place / self.every.as_secs_f64()) as usize;
        let place = place.min(MAX_SLOTS - 1);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        while slots.len() <= place {
            slots.push(Slot::new());
        }
        let slot = &mut slots[place];
        slot.longest = slot.longest.max(took);
        if succeeded {
            // It grows with what it is given; only memory for it could lack.
            let _ = slot.latencies.record(took.as_micros() as u64);
        } else {
            slot.failed += 1;
        }
    }

    /// How many were answered, and how many failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().fold((0, 0), |(answered, failed), slot| {
            (answered + slot.latencies.len(), failed + slot.failed)
        })
    }

    /// The intervals in which a request was due.
    pub(crate) fn points(&self) -> Vec<Point> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let used = slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.latencies.len() + slot.failed > 0);
        used.map(|(place, slot)| {
            let at = |quantile| slot.latencies.value_at_quantile(quantile) as f64 / 1e3;
            Point {
                at: place as f64 * self.every.as_secs_f64(),
                answered: slot.latencies.len(),
                failed: slot.failed,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                longest: slot.longest.as_secs_f64() * 1e3,
            }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_where_they_were_due() {
        let began = Instant::now();
        let series = Series::new(began, Duration::from_secs(1));

        series.over(
            began + Duration::from_millis(2500),
            Duration::from_secs(9),
            false,
        );
        series.over(
            began + Duration::from_millis(2900),
            Duration::from_millis(4),
            true,
        );
        series.over(began, Duration::from_millis(8), true);

        let points = series.points();
        assert_eq!(series.counts(), (2, 1));
        let seen: Vec<_> = points
            .iter()
            .map(|it| (it.at, it.answered, it.failed))
            .collect();
        assert_eq!(seen, [(0.0, 1, 0), (2.0, 1, 1)]);
        assert!((points[1].longest - 9000.0).abs() < 1.0);
        assert!((points[1].p99 - 4.0).abs() < 0.1);
    }
}
