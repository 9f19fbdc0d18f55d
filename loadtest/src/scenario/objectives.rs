//! What a run must achieve.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Limits; those that are not given do not count.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Objectives {
    /// Requests that failed.
    pub(crate) max_failed: Option<u64>,
    /// The same, in percent of all.
    pub(crate) max_failed_percent: Option<f64>,
    /// Requests that were answered.
    pub(crate) min_requests: Option<u64>,
    /// Median latency of short requests.
    pub(crate) p50_ms: Option<f64>,
    /// 99th percentile of latency of short requests.
    pub(crate) p99_ms: Option<f64>,
    /// The longest that any request took, failed ones included.
    pub(crate) longest_stall_ms: Option<f64>,
    /// Seconds until all agents were ready.
    pub(crate) ready_seconds: Option<f64>,
    /// The longest time for which some agent was not connected, after all were ready.
    pub(crate) incomplete_seconds: Option<f64>,
    /// Resident memory of all replicas for each agent, beyond that of empty ones.
    pub(crate) kib_per_agent: Option<f64>,
    /// How much more of it all replicas have at their peak in the later half of the run, for each agent.
    pub(crate) grown_kib_per_agent: Option<f64>,
    /// The same of what Redis keeps.
    pub(crate) redis_grown_kib_per_agent: Option<f64>,
    /// CPU of all replicas for each agent in phases without traffic.
    pub(crate) cpu_ms_per_agent_minute: Option<f64>,
    /// CPU of all replicas for each request.
    pub(crate) cpu_us_per_request: Option<f64>,
    /// Commands that Redis is asked a second and replica in phases without traffic.
    pub(crate) redis_commands_per_second: Option<f64>,
    /// Resident memory for each agent in the simulator.
    pub(crate) fleet_kib_per_agent: Option<f64>,
    /// Throughput of bulk bodies.
    pub(crate) min_mib_per_second: Option<f64>,
}

/// One objective, and whether it was reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) objective: String,
    pub(crate) limit: f64,
    /// Nothing if it was not measured, which is a miss.
    pub(crate) measured: Option<f64>,
    pub(crate) reached: bool,
}

impl Objectives {
    /// Compares figures by name with the limits.
    pub(crate) fn judge(&self, figures: &BTreeMap<String, f64>) -> Vec<Verdict> {
        let most = self
            .most()
            .into_iter()
            .map(|(name, limit)| (name, limit, false));
        let least = self
            .least()
            .into_iter()
            .map(|(name, limit)| (name, limit, true));
        let judged = most.chain(least).filter_map(|(name, limit, at_least)| {
            let limit = limit?;
            let measured = figures.get(name).copied();
            let reached = |measured: f64| {
                if at_least {
                    measured >= limit
                } else {
                    measured <= limit
                }
            };
            Some(Verdict {
                objective: format!("{name} {} {limit}", if at_least { "≥" } else { "≤" }),
                limit,
                measured,
                reached: measured.is_some_and(reached),
            })
        });
        judged.collect()
    }

    fn most(&self) -> [(&'static str, Option<f64>); 14] {
        [
            ("failed", self.max_failed.map(|count| count as f64)),
            ("failed_percent", self.max_failed_percent),
            ("p50_ms", self.p50_ms),
            ("p99_ms", self.p99_ms),
            ("longest_stall_ms", self.longest_stall_ms),
            ("ready_seconds", self.ready_seconds),
            ("incomplete_seconds", self.incomplete_seconds),
            ("kib_per_agent", self.kib_per_agent),
            ("grown_kib_per_agent", self.grown_kib_per_agent),
            ("redis_grown_kib_per_agent", self.redis_grown_kib_per_agent),
            ("cpu_ms_per_agent_minute", self.cpu_ms_per_agent_minute),
            ("cpu_us_per_request", self.cpu_us_per_request),
            ("redis_commands_per_second", self.redis_commands_per_second),
            ("fleet_kib_per_agent", self.fleet_kib_per_agent),
        ]
    }

    fn least(&self) -> [(&'static str, Option<f64>); 2] {
        [
            ("requests", self.min_requests.map(|count| count as f64)),
            ("mib_per_second", self.min_mib_per_second),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_judged_by_its_own_figure() {
        let objectives = Objectives {
            max_failed: Some(0),
            p99_ms: Some(100.0),
            min_requests: Some(10),
            ..Objectives::default()
        };
        let figures = [("failed", 0.0), ("p99_ms", 250.0), ("requests", 10.0)];
        let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();

        let verdicts = objectives.judge(&figures);

        let reached: Vec<_> = verdicts
            .iter()
            .map(|it| (&*it.objective, it.reached))
            .collect();
        assert_eq!(
            reached,
            [
                ("failed ≤ 0", true),
                ("p99_ms ≤ 100", false),
                ("requests ≥ 10", true)
            ]
        );
    }

    #[test]
    fn what_was_not_measured_is_not_reached() {
        let objectives = Objectives {
            kib_per_agent: Some(40.0),
            ..Objectives::default()
        };

        let verdicts = objectives.judge(&BTreeMap::new());

        assert_eq!((verdicts.len(), verdicts[0].reached), (1, false));
    }
}
