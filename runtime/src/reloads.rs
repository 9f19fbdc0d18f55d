//! `config_last_reload_*`: whether the files that this process reads again could be used when they were read last.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{LazyLock, Mutex, PoisonError, atomic::AtomicU64},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

/// A file, of which a configuration names a few.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct File {
    file: String,
}

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Debug, Default)]
struct Families {
    successful: Family<File, Gauge>,
    succeeded_at: Family<File, Seconds>,
    not_after: Family<File, Seconds>,
}

/// Of all files of the process, whoever reads them.
static FAMILIES: LazyLock<Families> = LazyLock::new(Families::default);

/// The ends of the chains of certificates that are in force, in seconds since 1970, by their files.
static ENDS: Mutex<BTreeMap<String, i64>> = Mutex::new(BTreeMap::new());

/// Registers the metrics of all files.
pub fn register(registry: &mut Registry) {
    registry.register(
        "config_last_reload_successful",
        "Whether a file could be used when it was read last (1), or what was read before stays in force (0)",
        FAMILIES.successful.clone(),
    );
    registry.register(
        "config_last_reload_success_timestamp_seconds",
        "When a file was read last that could be used, in seconds since 1970",
        FAMILIES.succeeded_at.clone(),
    );
    registry.register(
        "tls_certificate_not_after_timestamp_seconds",
        "When the first certificate of a file's chain ends, in seconds since 1970, as this process uses it",
        FAMILIES.not_after.clone(),
    );
}

/// A file was read and is in force.
pub fn succeeded(file: &Path) {
    let label = label(file);
    FAMILIES.successful.get_or_create_owned(&label).set(1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0.0, |it| it.as_secs_f64());
    FAMILIES.succeeded_at.get_or_create_owned(&label).set(now);
}

/// A file was read and cannot be used.
pub fn refused(file: &Path) {
    FAMILIES.successful.get_or_create_owned(&label(file)).set(0);
}

/// A chain of certificates is in force until then, in seconds since 1970.
pub(crate) fn certificate(file: &Path, not_after: i64) {
    let gauge = FAMILIES.not_after.get_or_create_owned(&label(file));
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of dates are far below 2^53"
    )]
    gauge.set(not_after as f64);
    let mut ends = ENDS.lock().unwrap_or_else(PoisonError::into_inner);
    ends.insert(label(file).file, not_after);
}

/// When the first certificate of each chain ends that this process uses: its file, and seconds since 1970.
#[must_use]
pub fn certificate_ends() -> Vec<(String, i64)> {
    let ends = ENDS.lock().unwrap_or_else(PoisonError::into_inner);
    ends.iter()
        .map(|(file, end)| (file.clone(), *end))
        .collect()
}

fn label(file: &Path) -> File {
    File {
        file: file.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_file_is_told_until_it_is_mended() {
        let mut registry = Registry::default();
        register(&mut registry);
        let file = Path::new("/reloads/test.yaml");
        let told = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let name = "config_last_reload_successful{file=\"/reloads/test.yaml\"} ";
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::to_owned)
        };

        refused(file);
        assert_eq!(told().as_deref(), Some("0"));
        succeeded(file);

        assert_eq!(told().as_deref(), Some("1"));
    }
}
