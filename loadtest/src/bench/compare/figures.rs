//! Figures of a benchmark by name, and their medians.

use super::Figures;
use crate::bench::{Link, report::Report};

/// All figures of one measurement.
pub(super) fn of(report: &Report) -> Figures {
    let mut figures = Figures::new();
    let mut set = |name: String, value: f64| {
        figures.insert(name, value);
    };
    let clear = |link: &Link| *link == Link::Clear;
    for it in report.requests.iter().filter(|it| clear(&it.link)) {
        let name = format!("{}.{}.{}", it.kind.key(), it.route.name(), it.clients);
        set(format!("{name}.rate"), it.sent.requests_per_second);
        set(format!("{name}.p50"), it.sent.latency_ms.p50);
        set(format!("{name}.p99"), it.sent.latency_ms.p99);
        set(format!("{name}.cpu"), it.kas_cpu_us);
        set(format!("{name}.failed"), it.sent.errors() as f64);
    }
    for it in report.bulk.iter().filter(|it| clear(&it.link)) {
        let name = format!("{}.{}.bulk", it.kind.key(), it.route.name());
        set(name, it.mebibytes_per_second);
    }
    for it in &report.idle {
        set(format!("{}.fresh", it.scheme), it.fresh_kib);
        set(format!("{}.worn", it.scheme), it.after_reconnects_kib);
        set(format!("{}.cpu", it.scheme), it.cpu_ms_per_minute);
        set(format!("{}.ready", it.scheme), it.ready_seconds);
        set(format!("{}.accept", it.scheme), it.accept_cpu_us);
        set(format!("{}.dial", it.scheme), it.dial_cpu_us);
    }
    if let Some(it) = &report.rest {
        set("redis.connect".into(), it.commands_to_connect);
        set("redis.request".into(), it.commands_per_request);
        set("redis.second".into(), it.commands_per_second_and_replica);
        set("redis.bytes".into(), it.bytes_per_agent);
    }
    figures
}

/// The median of each figure.
pub(super) fn medians(all: &[Figures]) -> Figures {
    let names = all.iter().flat_map(|figures| figures.keys());
    let median = |name: &String| {
        let mut values: Vec<_> = all.iter().filter_map(|it| it.get(name)).copied().collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    names.map(|name| (name.clone(), median(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_those_that_have_it() {
        let one = |value: f64| Figures::from([("a".to_owned(), value)]);

        let medians = medians(&[one(3.0), one(1.0), one(2.0), Figures::new()]);

        assert_eq!(medians, one(2.0));
    }
}
