//! `process_*`: what Prometheus' client libraries tell of their own process, read when somebody asks.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Ticks of a second in `/proc`, which Linux fixes for programs whatever its own clock is (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Encodes them.
#[derive(Debug)]
pub struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if let Some(seconds) = cpu_seconds() {
            let (name, help) = (
                "process_cpu_seconds",
                "User and system CPU time of this process in seconds",
            );
            let counter = ConstCounter::new(seconds);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let gauges = [
            (
                "process_open_fds",
                "Open file descriptors of this process",
                open_files(),
            ),
            (
                "process_max_fds",
                "File descriptors that this process may open",
                max_files(),
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory of this process in bytes",
                memory_bytes("VmRSS:"),
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory of this process in bytes",
                memory_bytes("VmSize:"),
            ),
            (
                "process_start_time_seconds",
                "When this process started, in seconds since 1970",
                start_time_seconds(),
            ),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
        Ok(())
    }
}

/// A field of `/proc/self/stat`, by its number in proc(5). The second one is a name that may contain anything.
fn stat(number: usize) -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace()
        .nth(number.checked_sub(3)?)?
        .parse()
        .ok()
}

fn cpu_seconds() -> Option<f64> {
    Some((stat(14)? + stat(15)?) / TICKS_PER_SECOND)
}

fn start_time_seconds() -> Option<f64> {
    let stats = fs::read_to_string("/proc/stat").ok()?;
    let boot = stats.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + stat(22)? / TICKS_PER_SECOND)
}

fn memory_bytes(key: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: f64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn open_files() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    u32::try_from(count).ok().map(f64::from)
}

fn max_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let value = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn they_are_told_under_the_names_of_prometheus() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics));

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();

        for name in [
            "process_cpu_seconds_total ",
            "process_open_fds ",
            "process_max_fds ",
            "process_resident_memory_bytes ",
            "process_virtual_memory_bytes ",
            "process_start_time_seconds ",
        ] {
            assert!(
                text.lines().any(|line| line.starts_with(name)),
                "{name} in {text}"
            );
        }
        assert!(memory_bytes("VmRSS:").unwrap() > 1e5);
        assert!(start_time_seconds().unwrap() > 1.6e9);
    }
}
