//! The plots of a run. Pure.

use std::collections::BTreeMap;

use super::plot::{Band, Line, Plot};
use crate::record::{Fleet, Record, Sample, Stream};

/// All plots, in the order of the page; those without lines are left out.
pub(super) fn all(record: &Record) -> Vec<Plot> {
    let mut plots = Vec::new();
    if !record.streams.is_empty() {
        plots.push(latency(record));
        plots.push(kinds(record));
        plots.push(requests(record));
    }
    plots.push(memory(record));
    plots.push(per_agent(record));
    plots.push(cpu(record));
    if !record.streams.is_empty() {
        plots.push(per_request(record));
    }
    plots.push(connected(record));
    plots.push(tunnels(record));
    plots.push(files(record));
    if record.samples.iter().any(|it| it.redis.is_some()) {
        plots.extend(redis(record));
    }
    plots.retain(has_points);
    plots
}

/// Small plots of the same figure, one for each replica, with the same axes: title, and the plots.
pub(super) fn of_replicas(record: &Record) -> Vec<(&'static str, Vec<Plot>)> {
    let names: Vec<_> = record.replica_names().cloned().collect();
    let figures = [
        (
            "CPU of each replica",
            "percent of one",
            cpu_of(record, &names),
        ),
        ("Memory of each replica", "MiB", memory_of(record, &names)),
        (
            "Agents that each replica owns",
            "agents",
            owned(record, &names),
        ),
        (
            "Open files of each replica",
            "files",
            files_of(record, &names),
        ),
    ];
    let groups = figures.into_iter().map(|(title, unit, lines)| {
        let values = lines.iter().flat_map(|it| &it.points);
        let most = values
            .map(|(_, value)| *value)
            .filter(|it| it.is_finite())
            .fold(0.0, f64::max);
        let plots = lines.into_iter().enumerate().map(|(place, line)| Plot {
            small: true,
            at_least: most,
            colour: place,
            ..plot(record, &line.name.clone(), unit, vec![line])
        });
        (title, plots.filter(has_points).collect::<Vec<_>>())
    });
    groups.filter(|(_, plots)| !plots.is_empty()).collect()
}

fn has_points(plot: &Plot) -> bool {
    plot.lines.iter().any(|line| !line.points.is_empty())
}

fn plot(record: &Record, title: &str, unit: &str, lines: Vec<Line>) -> Plot {
    let bands = record.marks.iter().map(|mark| Band {
        name: mark.what.clone(),
        from: mark.from,
        to: mark.to,
    });
    let ticks = record.phases.iter().map(|it| (it.from, it.name.clone()));
    Plot {
        title: title.to_owned(),
        unit: unit.to_owned(),
        lines,
        bands: bands.collect(),
        ticks: ticks.collect(),
        span: record.seconds,
        over: " s",
        ..Plot::default()
    }
}

fn line(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Line {
    Line {
        name: name.into(),
        points: points.into_iter().collect(),
        apart: false,
    }
}

/// Streams of one kind, over all phases.
fn by_kind(record: &Record) -> BTreeMap<&'static str, Vec<&Stream>> {
    let mut kinds: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for stream in &record.streams {
        kinds.entry(stream.kind.name()).or_default().push(stream);
    }
    kinds.values_mut().for_each(|streams| {
        let first = |it: &&Stream| it.points.first().map_or(0.0, |point| point.at);
        streams.sort_by(|a, b| first(a).total_cmp(&first(b)));
    });
    kinds
}

fn latency(record: &Record) -> Plot {
    let kinds = by_kind(record);
    let chosen = kinds.get_key_value("short").or(kinds.first_key_value());
    let (kind, streams) = chosen.map_or(("", &[][..]), |(kind, all)| (*kind, &all[..]));
    let points = |of: fn(&crate::traffic::Point) -> f64| {
        let points = streams.iter().flat_map(|it| &it.points);
        points
            .map(move |it| (it.at, of(it)))
            .filter(|(_, value)| *value > 0.0)
    };
    let lines = vec![
        line("p50", points(|it| it.p50)),
        line("p90", points(|it| it.p90)),
        line("p99", points(|it| it.p99)),
        line("longest, failed ones included", points(|it| it.longest)),
    ];
    let title = format!("Latency of {kind} requests, by the second in which they were due");
    Plot {
        logarithmic: true,
        ..plot(record, &title, "ms", lines)
    }
}

fn kinds(record: &Record) -> Plot {
    let kinds = by_kind(record);
    let lines = kinds.iter().map(|(kind, streams)| {
        let points = streams.iter().flat_map(|it| &it.points);
        line(
            *kind,
            points
                .map(|it| (it.at, it.p99))
                .filter(|(_, value)| *value > 0.0),
        )
    });
    Plot {
        logarithmic: true,
        ..plot(
            record,
            "p99 by kind, beyond what the answer takes by its script",
            "ms",
            lines.collect(),
        )
    }
}

fn requests(record: &Record) -> Plot {
    let rate = rates(record, |it| it.answered as f64);
    let failed = rates(record, |it| it.failed as f64);
    let lines = vec![line("answered", rate), line("failed", failed)];
    plot(record, "Requests and errors", "per second", lines)
}

/// What a counter grows by in a second.
fn rates(record: &Record, of: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    let pairs = record.samples.windows(2);
    let rate = pairs.map(|pair| {
        let [before, after] = pair else {
            return (0.0, 0.0);
        };
        let seconds = (after.at - before.at).max(1e-3);
        (after.at, ((of(after) - of(before)) / seconds).max(0.0))
    });
    rate.collect()
}

/// Processes that are no replicas, and have no plots of their own.
fn others(record: &Record) -> Vec<String> {
    let names = record.samples.iter().flat_map(|it| it.processes.keys());
    let names: std::collections::BTreeSet<_> = names
        .filter(|name| !record.empty_kib.contains_key(*name))
        .cloned()
        .collect();
    names.into_iter().collect()
}

fn of_processes(
    record: &Record,
    names: &[String],
    of: impl Fn(&Sample, &str) -> Option<f64>,
) -> Vec<Line> {
    let lines = names.iter().map(|name| {
        let points = record.samples.iter();
        line(name, points.filter_map(|it| Some((it.at, of(it, name)?))))
    });
    lines.collect()
}

fn memory(record: &Record) -> Plot {
    let replicas = record.samples.iter().map(|it| {
        let kib = it.sum(record.replica_names(), |it| it.resident_kib as f64);
        (it.at, kib / 1024.0)
    });
    let mut lines = vec![line("all replicas", replicas)];
    lines.extend(memory_of(record, &others(record)));
    plot(record, "Resident memory", "MiB", lines)
}

fn memory_of(record: &Record, names: &[String]) -> Vec<Line> {
    of_processes(record, names, |sample, name| {
        Some(sample.processes.get(name)?.resident_kib as f64 / 1024.0)
    })
}

fn per_agent(record: &Record) -> Plot {
    let empty: u64 = record.empty_kib.values().sum();
    let points = record.samples.iter().filter_map(|it| {
        let registered = it.fleet?.registered;
        if registered * 10 < record.agents
            || !record
                .replica_names()
                .all(|name| it.processes.contains_key(name))
        {
            return None;
        }
        let resident = it.sum(record.replica_names(), |it| it.resident_kib as f64);
        let kib = (resident - empty as f64).max(0.0) / registered as f64;
        Some((it.at, kib))
    });
    let simulator = record.samples.iter().filter_map(|it| {
        let registered = it.fleet?.registered;
        let kib = it.processes.get("fleet")?.resident_kib as f64 / registered as f64;
        (registered * 10 >= record.agents).then_some((it.at, kib))
    });
    let lines = vec![
        line("all replicas, beyond their empty ones", points),
        line("the simulator", simulator),
    ];
    plot(record, "Memory for each agent", "KiB", lines)
}

fn cpu(record: &Record) -> Plot {
    let replicas = rates(record, |it| it.sum(record.replica_names(), |it| it.cpu_ms));
    let replicas = replicas.into_iter().map(|(at, ms)| (at, ms / 10.0));
    let mut lines = vec![line("all replicas", replicas)];
    lines.extend(cpu_of(record, &others(record)));
    plot(record, "CPU", "percent of one", lines)
}

fn cpu_of(record: &Record, names: &[String]) -> Vec<Line> {
    let lines = names.iter().map(|name| {
        let of = |it: &Sample| it.processes.get(name).map_or(f64::NAN, |it| it.cpu_ms);
        let rates = rates(record, of)
            .into_iter()
            .filter(|(_, value)| value.is_finite());
        line(name, rates.map(|(at, ms)| (at, ms / 10.0)))
    });
    lines.collect()
}

fn per_request(record: &Record) -> Plot {
    let replicas = |it: &Sample| it.sum(record.replica_names(), |it| it.cpu_ms);
    let pairs = record.samples.windows(2).filter_map(|pair| {
        let [before, after] = pair else { return None };
        let requests = after.answered.saturating_sub(before.answered);
        let cpu = (replicas(after) - replicas(before)).max(0.0);
        (requests >= 5).then(|| (after.at, cpu * 1e3 / requests as f64))
    });
    let lines = vec![line("all replicas", pairs)];
    plot(record, "CPU for each request", "µs", lines)
}

/// What the fleet says of itself.
fn of_fleet(record: &Record, of: fn(&Fleet) -> usize) -> impl Iterator<Item = (f64, f64)> {
    let points = record.samples.iter();
    points.filter_map(move |it| Some((it.at, of(it.fleet.as_ref()?) as f64)))
}

fn connected(record: &Record) -> Plot {
    let lines = vec![
        line("connected", of_fleet(record, |it| it.connected)),
        line("registered", of_fleet(record, |it| it.registered)),
    ];
    plot(record, "Agents, as they see it", "agents", lines)
}

/// Apart from agents, of which each has several.
fn tunnels(record: &Record) -> Plot {
    let idle = of_fleet(record, |it| it.idle_tunnels);
    let lines = vec![line("idle", idle)];
    plot(record, "Tunnels that wait for a request", "tunnels", lines)
}

fn owned(record: &Record, names: &[String]) -> Vec<Line> {
    of_processes(record, names, |sample, name| {
        let metrics = sample.metrics.get(name)?;
        metrics.get("connected_agents_count").copied()
    })
}

fn files(record: &Record) -> Plot {
    let replicas = record.samples.iter().map(|it| {
        let files = it.sum(record.replica_names(), |it| it.files as f64);
        (it.at, files)
    });
    let mut lines = vec![line("all replicas", replicas)];
    lines.extend(files_of(record, &others(record)));
    plot(record, "Open files", "files", lines)
}

fn files_of(record: &Record, names: &[String]) -> Vec<Line> {
    of_processes(record, names, |sample, name| {
        Some(sample.processes.get(name)?.files as f64)
    })
}

fn redis(record: &Record) -> [Plot; 2] {
    let asked = record
        .samples
        .iter()
        .filter_map(|it| Some((it.at, it.redis?)));
    let asked: Vec<_> = asked.collect();
    let rate = asked.windows(2).filter_map(|pair| {
        let [(before, first), (after, second)] = pair else {
            return None;
        };
        // After a restart the counters begin anew.
        let commands = second.commands.saturating_sub(first.commands) as f64;
        Some((*after, commands / (after - before).max(1e-3)))
    });
    let memory = asked
        .iter()
        .map(|(at, it)| (*at, it.bytes as f64 / f64::from(1 << 20)));
    [
        plot(
            record,
            "Commands that Redis is asked",
            "per second",
            vec![line("commands", rate)],
        ),
        plot(
            record,
            "Memory of Redis",
            "MiB",
            vec![line("in use", memory)],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_and_their_tunnels_have_axes_of_their_own() {
        let fleet = Fleet {
            connected: 60,
            registered: 59,
            idle_tunnels: 720,
            ..Fleet::default()
        };
        let record = Record {
            samples: vec![Sample {
                fleet: Some(fleet),
                ..Sample::default()
            }],
            ..Record::default()
        };

        let (agents, tunnels) = (connected(&record), tunnels(&record));

        assert_eq!((&*agents.unit, &*tunnels.unit), ("agents", "tunnels"));
        assert_eq!(agents.lines[1].points, [(0.0, 59.0)]);
        assert_eq!(tunnels.lines[0].points, [(0.0, 720.0)]);
    }

    #[test]
    fn counters_become_rates_and_never_negative_ones() {
        let sample = |at, answered| Sample {
            at,
            answered,
            ..Sample::default()
        };
        let record = Record {
            samples: vec![sample(0.0, 0), sample(2.0, 100), sample(3.0, 50)],
            ..Record::default()
        };

        let rates = rates(&record, |it| it.answered as f64);

        assert_eq!(rates, [(2.0, 50.0), (3.0, 0.0)]);
    }
}
