//! The text format of Prometheus before OpenMetrics, made of the latter.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/>, `text/plain; version=0.0.4`.

use std::fmt::Write;

/// The same metrics in the classic format: counters have their suffix in the descriptions too, and there is no end
/// mark, no unit and no exemplar.
pub(super) fn of(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = Some(described);
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap_or((described, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "gauge" | "histogram" | "summary" => ("", kind),
                _ => ("", "untyped"),
            };
            let words = help.take().and_then(|it| it.split_once(' '));
            if let Some((_, words)) = words.filter(|(described, _)| *described == name) {
                // Writing to a string does not fail.
                let _ = writeln!(text, "# HELP {name}{suffix} {words}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            let sample = line.split_once(" # {").map_or(line, |(sample, _)| sample);
            text.push_str(sample);
            text.push('\n');
        }
    }
    text
}

/// Whether a scraper with this `Accept` wants the classic format: it names it, and OpenMetrics not before it.
pub(super) fn is_wanted(accept: &str) -> bool {
    let mut best = (0.0, false);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let classic = match parts.next().unwrap_or_default() {
            "text/plain" => true,
            "application/openmetrics-text" => false,
            _ => continue,
        };
        let quality = parts.find_map(|it| it.strip_prefix("q="));
        let quality = quality.map_or(Some(1.0), |it| it.parse::<f32>().ok());
        let quality = quality.unwrap_or(0.0);
        if quality > best.0 {
            best = (quality, classic);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        metrics::{counter::Counter, gauge::Gauge, histogram::Histogram, info::Info},
        registry::Registry,
    };

    use super::*;

    #[test]
    fn all_kinds_of_metrics_are_described_as_prometheus_does() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        counter.inc();
        registry.register("calls", "Calls", counter);
        registry.register("open", "Open", Gauge::<i64>::default());
        let histogram = Histogram::new([0.5]);
        histogram.observe(0.1);
        registry.register("took_seconds", "Took", histogram);
        registry.register("build", "Build", Info::new([("version", "1")]));
        let mut open_metrics = String::new();
        prometheus_client::encoding::text::encode(&mut open_metrics, &registry).unwrap();

        let classic = of(&open_metrics);

        assert_eq!(
            classic,
            "# HELP calls_total Calls.\n# TYPE calls_total counter\ncalls_total 1\n\
             # HELP open Open.\n# TYPE open gauge\nopen 0\n\
             # HELP took_seconds Took.\n# TYPE took_seconds histogram\n\
             took_seconds_sum 0.1\ntook_seconds_count 1\n\
             took_seconds_bucket{le=\"0.5\"} 1\ntook_seconds_bucket{le=\"+Inf\"} 1\n\
             # HELP build_info Build.\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n"
        );
    }

    #[test]
    fn the_format_is_the_one_that_a_scraper_names_first() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
        assert!(!is_wanted(prometheus));
        assert!(is_wanted("text/plain;version=0.0.4;q=1,*/*;q=0.1"));
        assert!(is_wanted("text/plain"));
        assert!(!is_wanted("*/*") && !is_wanted("") && !is_wanted("text/plain;q=0"));
        assert!(is_wanted(
            "application/openmetrics-text;q=0.4, text/plain;q=0.5"
        ));
    }
}
