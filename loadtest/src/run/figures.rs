//! Figures of a whole run, from what was seen over time. Pure.

use std::collections::BTreeMap;

use crate::{
    record::{Record, Sample, Span, Stream},
    traffic::Kind,
};

/// Seconds after which what came before an idle phase has settled.
const SETTLE_SECONDS: f64 = 2.0;

/// Computes all that can be; adds to what the record has.
pub(super) fn measure(record: &Record) -> BTreeMap<String, f64> {
    let mut figures = record.figures.clone();
    let mut set = |name: &str, value: Option<f64>| {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            figures.insert(name.to_owned(), value);
        }
    };
    requests(record, &mut set);
    agents(record, &mut set);
    idle(record, &mut set);
    figures
}

fn requests(record: &Record, set: &mut impl FnMut(&str, Option<f64>)) {
    let streams: Vec<&Stream> = record.streams.iter().filter(|it| !it.warm_up).collect();
    if streams.is_empty() {
        return;
    }
    let answered: u64 = streams.iter().map(|it| it.total.requests).sum();
    let failed: u64 = streams.iter().map(|it| it.total.errors()).sum();
    set("requests", Some(answered as f64));
    set("failed", Some(failed as f64));
    set(
        "failed_percent",
        Some(100.0 * failed as f64 / (answered + failed).max(1) as f64),
    );
    set(
        "retried",
        Some(streams.iter().map(|it| it.total.retried as f64).sum()),
    );
    let worst = |streams: &[&Stream], of: fn(&Stream) -> f64| {
        streams.iter().map(|it| of(it)).reduce(f64::max)
    };
    let short: Vec<_> = streams
        .iter()
        .copied()
        .filter(|it| it.kind == Kind::Short)
        .collect();
    let timed = if short.is_empty() { &streams } else { &short };
    set("p50_ms", worst(timed, |it| it.total.latency_ms.p50));
    set("p99_ms", worst(timed, |it| it.total.latency_ms.p99));
    // Bodies that take their time by their length are no stalls.
    let stalls: Vec<_> = streams
        .iter()
        .copied()
        .filter(|it| it.kind != Kind::Bulk)
        .collect();
    set("longest_stall_ms", worst(&stalls, |it| it.total.longest_ms));
    let bulk: Vec<_> = streams
        .iter()
        .copied()
        .filter(|it| it.kind == Kind::Bulk)
        .collect();
    set(
        "mib_per_second",
        worst(&bulk, |it| it.total.mebibytes_per_second),
    );
    let busy = record.phases.iter().filter(|it| !it.warm_up && !it.idle);
    let (cpu, requests) = busy.fold((0.0, 0.0), |(cpu, requests), span| {
        let (first, last) = ends(record, span, 0.0);
        match (first, last) {
            (Some(first), Some(last)) => (
                cpu + cpu_of_replicas(record, last) - cpu_of_replicas(record, first),
                requests + (last.answered - first.answered) as f64,
            ),
            _ => (cpu, requests),
        }
    });
    set(
        "cpu_us_per_request",
        (requests > 0.0).then(|| cpu * 1e3 / requests),
    );
}

fn agents(record: &Record, set: &mut impl FnMut(&str, Option<f64>)) {
    let count = record.agents as f64;
    let ready = record.figures.get("ready_seconds").copied();
    let Some(ready) = ready else { return };
    let whole = record.samples.iter().filter(|it| it.at >= ready);
    let mut since = None;
    let mut longest: f64 = 0.0;
    for sample in whole {
        let complete = sample
            .fleet
            .is_some_and(|it| it.registered + it.real_ready >= record.agents);
        since = if complete {
            None
        } else {
            since.or(Some(sample.at))
        };
        longest = longest.max(since.map_or(0.0, |since| sample.at - since));
    }
    set("incomplete_seconds", Some(longest));
    let empty: u64 = record.empty_kib.values().sum();
    let settled = record
        .samples
        .iter()
        .find(|it| it.at >= ready + SETTLE_SECONDS);
    let settled = settled.or(record.samples.last());
    let each = |sample: &Sample| {
        let resident = sample.sum(record.replica_names(), |it| it.resident_kib as f64);
        (resident - empty as f64) / count
    };
    let known = settled.filter(|_| !record.empty_kib.is_empty());
    set("kib_per_agent", known.map(each));
    let asked = |sample: Option<&Sample>| sample.and_then(|it| it.redis).map(|it| it.bytes as f64);
    let bytes = asked(record.samples.first()).zip(asked(settled));
    set(
        "redis_bytes_per_agent",
        bytes.map(|(empty, full)| (full - empty) / count),
    );
    let (from, to) = (ready + SETTLE_SECONDS, record.samples.last());
    let halves = to
        .filter(|to| to.at > from)
        .map(|to| (from, (from + to.at) / 2.0));
    let grown = |of: &dyn Fn(&Sample) -> Option<f64>| {
        let (from, middle) = halves?;
        let peak = |within: &dyn Fn(f64) -> bool| {
            let samples = record.samples.iter().filter(|it| within(it.at));
            samples.filter_map(of).reduce(f64::max)
        };
        let (earlier, later) = (
            peak(&|at| at >= from && at < middle),
            peak(&|at| at >= middle),
        );
        Some((later? - earlier?) / count)
    };
    let resident =
        |sample: &Sample| Some(sample.sum(record.replica_names(), |it| it.resident_kib as f64));
    let known = !record.empty_kib.is_empty();
    set(
        "grown_kib_per_agent",
        known.then(|| grown(&resident)).flatten(),
    );
    set(
        "redis_grown_kib_per_agent",
        grown(&|sample| Some(sample.redis?.bytes as f64 / 1024.0)),
    );
    let fleet = settled.and_then(|it| it.processes.get("fleet"));
    set(
        "fleet_kib_per_agent",
        fleet.map(|it| it.resident_kib as f64 / (count - record.real as f64)),
    );
}

fn idle(record: &Record, set: &mut impl FnMut(&str, Option<f64>)) {
    let (mut cpu, mut commands, mut seconds) = (0.0, None, 0.0);
    for span in record.phases.iter().filter(|it| it.idle) {
        let (Some(first), Some(last)) = ends(record, span, SETTLE_SECONDS) else {
            continue;
        };
        cpu += cpu_of_replicas(record, last) - cpu_of_replicas(record, first);
        seconds += last.at - first.at;
        if let (Some(before), Some(after)) = (first.redis, last.redis) {
            let more = after.commands.saturating_sub(before.commands) as f64;
            commands = Some(commands.unwrap_or(0.0) + more);
        }
    }
    if seconds < 1.0 {
        return;
    }
    let minutes = seconds / 60.0;
    let known = !record.empty_kib.is_empty();
    set(
        "cpu_ms_per_agent_minute",
        known.then(|| cpu / minutes / record.agents as f64),
    );
    let each = |commands: f64| commands / seconds / record.replicas as f64;
    set("redis_commands_per_second", commands.map(each));
}

/// The first and the last sample of a phase, after it has settled.
fn ends<'a>(
    record: &'a Record,
    span: &Span,
    settle: f64,
) -> (Option<&'a Sample>, Option<&'a Sample>) {
    let within = |it: &&Sample| it.at >= span.from + settle && it.at <= span.to + 0.5;
    let mut samples = record.samples.iter().filter(within);
    (samples.next(), samples.next_back())
}

fn cpu_of_replicas(record: &Record, sample: &Sample) -> f64 {
    sample.sum(record.replica_names(), |it| it.cpu_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Fleet, Redis, Usage};

    fn sample(at: f64, cpu_ms: f64, registered: usize) -> Sample {
        let usage = Usage {
            cpu_ms,
            resident_kib: 3000,
            files: 1,
        };
        Sample {
            at,
            processes: [("replica 1".to_owned(), usage)].into(),
            redis: Some(Redis {
                commands: at as u64 * 2,
                bytes: 0,
            }),
            fleet: Some(Fleet {
                registered,
                ..Fleet::default()
            }),
            ..Sample::default()
        }
    }

    fn record() -> Record {
        Record {
            agents: 100,
            replicas: 1,
            empty_kib: [("replica 1".to_owned(), 1000)].into(),
            figures: [("ready_seconds".to_owned(), 1.0)].into(),
            phases: vec![Span {
                name: "idle".into(),
                from: 1.0,
                to: 63.0,
                warm_up: false,
                idle: true,
            }],
            samples: vec![
                sample(1.0, 0.0, 100),
                sample(3.0, 10.0, 100),
                sample(40.0, 10.0, 90),
                sample(45.0, 10.0, 100),
                sample(63.0, 20.0, 100),
            ],
            ..Record::default()
        }
    }

    #[test]
    fn idle_agents_cost_what_was_used_in_idle_phases() {
        let figures = measure(&record());

        assert!((figures["cpu_ms_per_agent_minute"] - 0.1).abs() < 1e-9);
        assert!((figures["redis_commands_per_second"] - 2.0).abs() < 1e-9);
        assert!((figures["kib_per_agent"] - 20.0).abs() < 1e-9);
        assert!(!figures.contains_key("failed"));
    }

    #[test]
    fn agents_that_are_away_are_noticed() {
        let mut record = record();
        record.samples[3] = sample(45.0, 10.0, 99);

        assert!((measure(&record)["incomplete_seconds"] - 5.0).abs() < 1e-9);
    }

    #[test]
    fn what_grows_is_what_the_later_half_of_the_run_has_more_at_its_peak() {
        let grown = |kib: [u64; 5]| {
            let mut record = record();
            for (sample, kib) in record.samples.iter_mut().zip(kib) {
                let replica = sample.processes.values_mut();
                replica.for_each(|it| it.resident_kib = kib);
                sample.redis = Some(Redis {
                    commands: 0,
                    bytes: kib << 10,
                });
            }
            let figures = measure(&record);
            let names = ["grown_kib_per_agent", "redis_grown_kib_per_agent"];
            names.map(|name| figures[name])
        };

        // The first is from before they were ready and settled; the middle is at 33 s.
        assert_eq!(grown([9000, 3000, 4000, 3500, 3000]), [10.0; 2]);
        assert_eq!(grown([1000, 4000, 2000, 3000, 4000]), [0.0; 2]);
    }
}
