//! What came of the requests.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Different errors that are told apart; further ones count as `other`.
const MAX_KINDS: usize = 32;
const MAX_MICROS: u64 = 600_000_000;

/// Counted by one client, or by all.
#[derive(Debug)]
pub(crate) struct Tally {
    latencies: Histogram<u64>,
    bytes: u64,
    retried: u64,
    longest: Duration,
    errors: BTreeMap<String, u64>,
}

/// The result of `loadtest traffic`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) mebibytes_per_second: f64,
    pub(crate) latency_ms: Latency,
    /// The longest that any request took, failed ones included.
    pub(crate) longest_ms: f64,
    /// Requests that were made again on another connection.
    pub(crate) retried: u64,
    pub(crate) errors: BTreeMap<String, u64>,
}

/// Percentiles, in milliseconds, of the requests that succeeded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Default for Tally {
    fn default() -> Self {
        let latencies = Histogram::new_with_bounds(1, MAX_MICROS, 3);
        Self {
            latencies: latencies.expect("the bounds are valid"),
            bytes: 0,
            retried: 0,
            longest: Duration::ZERO,
            errors: BTreeMap::new(),
        }
    }
}

impl Tally {
    pub(super) fn succeeded(&mut self, latency: Duration, bytes: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MAX_MICROS);
        self.latencies.saturating_record(micros);
        self.longest = self.longest.max(latency);
        self.bytes += bytes;
    }

    /// A request was made again on another connection.
    pub(super) fn retried(&mut self) {
        self.retried += 1;
    }

    pub(super) fn failed(&mut self, kind: &str, latency: Duration) {
        self.longest = self.longest.max(latency);
        let known = self.errors.contains_key(kind) || self.errors.len() < MAX_KINDS;
        let kind = if known { kind } else { "other" };
        *self.errors.entry(kind.to_owned()).or_default() += 1;
    }

    /// Takes in what another counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.latencies
            .add(&other.latencies)
            .expect("all histograms have the same bounds");
        self.bytes += other.bytes;
        self.retried += other.retried;
        self.longest = self.longest.max(other.longest);
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }
}

impl Report {
    pub(crate) fn new(tally: &Tally, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        let requests = tally.latencies.len();
        let at = |percentile| {
            let micros = tally.latencies.value_at_percentile(percentile);
            micros as f64 / 1000.0
        };
        Self {
            seconds,
            requests,
            requests_per_second: requests as f64 / seconds,
            mebibytes_per_second: tally.bytes as f64 / f64::from(1 << 20) / seconds,
            latency_ms: Latency {
                p50: at(50.0),
                p90: at(90.0),
                p99: at(99.0),
                max: tally.latencies.max() as f64 / 1000.0,
            },
            longest_ms: tally.longest.as_secs_f64() * 1e3,
            retried: tally.retried,
            errors: tally.errors.clone(),
        }
    }

    /// Requests that did not succeed.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_of_clients_add_up() {
        let (mut all, mut one) = (Tally::default(), Tally::default());
        one.succeeded(Duration::from_millis(2), 1 << 20);
        one.failed("timeout", Duration::from_secs(3));

        all.add(&one);
        all.add(&one);

        let report = Report::new(&all, Duration::from_secs(2));
        assert_eq!((report.requests, report.errors()), (2, 2));
        assert!((report.longest_ms - 3000.0).abs() < 1.0);
        assert!((report.mebibytes_per_second - 1.0).abs() < 1e-9);
        assert!((report.latency_ms.p99 - 2.0).abs() < 0.01);
    }
}
