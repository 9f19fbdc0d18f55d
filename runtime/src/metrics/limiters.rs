//! `limiter_*`: the limits of this process, and how long they made callers wait, under the names of GitLab's kas.

use std::{sync::LazyLock, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Milliseconds, as `OpenTelemetry` has them by default.
const BUCKETS: [f64; 15] = [
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10_000.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limit {
    limiter_name: String,
    unit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Passage {
    limiter_name: String,
    allowed: &'static str,
}

#[derive(Debug)]
struct Families {
    limits: Family<Limit, Gauge<f64, std::sync::atomic::AtomicU64>>,
    waits: Family<Passage, Histogram, fn() -> Histogram>,
}

/// Of all limiters of the process, wherever they are.
static FAMILIES: LazyLock<Families> = LazyLock::new(|| Families {
    limits: Family::default(),
    waits: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
});

/// Registers the metrics of all limiters.
pub fn register(registry: &mut Registry) {
    registry.register(
        "limiter_limit",
        "Limit of a limiter, in its unit",
        FAMILIES.limits.clone(),
    );
    registry.register(
        "limiter_block_duration_milliseconds",
        "How long a limiter made callers wait, by whether it let them pass in the end",
        FAMILIES.waits.clone(),
    );
}

/// A limiter.
#[derive(Debug)]
pub struct Limiter {
    allowed: Histogram,
    refused: Histogram,
    /// What is forgotten with it.
    passing: Option<Limit>,
}

impl Limiter {
    /// A limiter of this name, and its limit.
    #[must_use]
    pub fn new(limiter_name: &str, unit: &'static str, limit: f64) -> Self {
        let known = Limit {
            limiter_name: limiter_name.to_owned(),
            unit,
        };
        FAMILIES.limits.get_or_create_owned(&known).set(limit);
        let waits = |allowed| {
            let passage = Passage {
                limiter_name: limiter_name.to_owned(),
                allowed,
            };
            FAMILIES.waits.get_or_create_owned(&passage)
        };
        Self {
            allowed: waits("true"),
            refused: waits("false"),
            passing: None,
        }
    }

    /// The same of something that comes and goes: its metrics go with the limiter.
    #[must_use]
    pub fn passing(limiter_name: &str, unit: &'static str, limit: f64) -> Self {
        let mut limiter = Self::new(limiter_name, unit, limit);
        limiter.passing = Some(Limit {
            limiter_name: limiter_name.to_owned(),
            unit,
        });
        limiter
    }

    /// Somebody passed after this time.
    pub fn passed(&self, waited: Duration) {
        self.allowed.observe(waited.as_secs_f64() * 1000.0);
    }

    /// Somebody was refused.
    pub fn refused(&self) {
        self.refused.observe(0.0);
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        let Some(limit) = self.passing.take() else {
            return;
        };
        FAMILIES.limits.remove(&limit);
        for allowed in ["true", "false"] {
            FAMILIES.waits.remove(&Passage {
                limiter_name: limit.limiter_name.clone(),
                allowed,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_and_labels_are_those_of_gitlabs_kas() {
        let limiter = Limiter::new("test", "{refill/s}", 50.0);
        limiter.passed(Duration::from_millis(7));
        limiter.refused();
        drop(Limiter::passing("gone", "{refill/s}", 1.0));
        let mut registry = Registry::default();
        register(&mut registry);

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();

        for line in [
            "limiter_limit{limiter_name=\"test\",unit=\"{refill/s}\"} 50.0",
            "limiter_block_duration_milliseconds_bucket{le=\"10.0\",limiter_name=\"test\",allowed=\"true\"} 1",
            "limiter_block_duration_milliseconds_count{limiter_name=\"test\",allowed=\"false\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("gone"), "{text}");
    }
}
