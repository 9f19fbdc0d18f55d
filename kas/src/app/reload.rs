//! SIGHUP: reads the files again that can change at run time, and says what needs a restart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use control_plane::standalone::Standalone;
use jiff::Timestamp;
use runtime::{
    reloads,
    telemetry::{self, Causes},
    tls::ServerTls,
};
use serde_json::Value;

use crate::config::{self, Config};

/// The keys whose changes count at once.
const RELOADED: [&str; 1] = ["observability.logging.level"];

/// What a running replica reads again.
#[derive(Debug)]
pub(super) struct Reloader {
    file: PathBuf,
    /// The configuration that the replica was started with.
    started_with: Value,
    /// Files that were read at the start, besides those below.
    read_at_start: Vec<ReadFile>,
    standalone: Option<Arc<Standalone>>,
    certificates: Vec<ServerTls>,
}

/// A file that was read at the start.
#[derive(Debug)]
struct ReadFile {
    key: String,
    file: PathBuf,
    stamp: Option<Stamp>,
}

/// Differs when the file does.
type Stamp = (SystemTime, u64);

impl Reloader {
    /// What `config`, read from `file`, consists of.
    pub(super) fn new(file: &Path, config: &Config, standalone: Option<&Arc<Standalone>>) -> Self {
        let started_with = config.show();
        let mut read_at_start = Vec::new();
        files(&started_with, "", &mut read_at_start);
        reloads::succeeded(file);
        Self {
            file: file.to_owned(),
            started_with,
            read_at_start,
            standalone: standalone.cloned(),
            certificates: Vec::new(),
        }
    }

    /// The certificates of ports, which are read again too.
    pub(super) fn certificates<'a>(&mut self, ports: impl Iterator<Item = &'a ServerTls>) {
        self.certificates.extend(ports.cloned());
    }

    /// Reads everything again. What cannot be used is logged and leaves in force what was there.
    pub(super) fn reload(&self) {
        tracing::info!("SIGHUP: reading configuration, agents and certificates again");
        self.reload_agents();
        self.reload_certificates();
        self.reload_configuration();
    }

    fn reload_agents(&self) {
        let Some(standalone) = &self.standalone else {
            return;
        };
        let file = standalone.file().display();
        match standalone.reload(Timestamp::now()) {
            Ok(()) => tracing::info!(%file, "agents, tokens and access rules reloaded"),
            Err(error) => tracing::error!(
                %error,
                "control plane file is invalid; the last valid one stays in force"
            ),
        }
    }

    fn reload_certificates(&self) {
        for tls in &self.certificates {
            let certificate = tls.identity().certificate.display();
            match tls.reload() {
                Ok(()) => tracing::info!(%certificate, "TLS certificate reloaded"),
                Err(error) => tracing::error!(
                    error = %Causes(&error),
                    "TLS files are not valid; keeping the previous certificate"
                ),
            }
        }
    }

    fn reload_configuration(&self) {
        let file = self.file.display();
        let config = match config::load(&self.file) {
            Ok(loaded) => loaded.config,
            Err(error) => {
                reloads::refused(&self.file);
                tracing::error!(%error, "configuration is invalid; the running one stays in force");
                return;
            }
        };
        reloads::succeeded(&self.file);
        let level = config.observability.logging.level;
        match telemetry::set_level(level) {
            Ok(()) => tracing::info!(%file, level = level.as_str(), "configuration reloaded"),
            Err(error) => tracing::warn!(%file, "configuration reloaded, but {error}"),
        }
        let needed = self.needs_restart(&config.show());
        if !needed.is_empty() {
            tracing::warn!(
                keys = needed.join(", "),
                "these have changed since this replica was started, and need a restart"
            );
        }
    }

    /// The keys that have other values, or name other contents, than at the start, and cannot change since.
    fn needs_restart(&self, now: &Value) -> Vec<String> {
        let mut changed = Vec::new();
        differences(&self.started_with, now, "", &mut changed);
        changed.retain(|key| !RELOADED.contains(&&**key));
        let rewritten = self.read_at_start.iter().filter(|it| it.is_rewritten());
        for key in rewritten.map(|it| &it.key) {
            if !changed.contains(key) {
                changed.push(format!("{key} (its file)"));
            }
        }
        changed
    }
}

impl ReadFile {
    fn is_rewritten(&self) -> bool {
        stamp(&self.file) != self.stamp
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The files that keys name whose contents are read at the start only: secrets and CAs.
fn files(value: &Value, path: &str, found: &mut Vec<ReadFile>) {
    let Value::Object(section) = value else {
        return;
    };
    for (key, below) in section {
        let path = below_path(path, key);
        let is_read_again = ["certificate_file", "key_file", "tokens_file"].contains(&&**key);
        match below {
            Value::String(file) if key.ends_with("_file") && !is_read_again => {
                found.push(ReadFile {
                    key: path,
                    stamp: stamp(Path::new(file)),
                    file: file.into(),
                });
            }
            below => files(below, &path, found),
        }
    }
}

/// The paths of keys whose values differ; a section that is only in one of both is named as a whole.
fn differences(before: &Value, after: &Value, path: &str, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let added = after.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                let (old, new) = (before.get(key), after.get(key));
                let (old, new) = (old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null));
                differences(old, new, &below_path(path, key), found);
            }
        }
        (before, after) if before != after => found.push(path.to_owned()),
        _ => {}
    }
}

fn below_path(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(before: &str, after: &str) -> Vec<String> {
        let read = |text| {
            let text = format!("standalone: {{file: agents.yaml}}\n{text}");
            config::parse(Path::new("kas.yaml"), &text).unwrap().config
        };
        let reloader = Reloader::new(Path::new("kas.yaml"), &read(before), None);
        reloader.needs_restart(&read(after).show())
    }

    #[test]
    fn what_cannot_change_at_run_time_is_named() {
        let level = |level| format!("observability: {{logging: {{level: {level}}}}}");
        assert_eq!(changed(&level("info"), &level("debug")), [""; 0]);
        assert_eq!(
            changed("", "agent: {listen: {address: '127.0.0.1:1'}}"),
            ["agent.listen.address"]
        );
    }

    #[test]
    fn a_secret_that_was_rewritten_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "one").unwrap();
        let text = format!(
            "standalone: {{file: agents.yaml}}\n\
             api: {{listen: {{authentication_secret_file: {}}}}}",
            secret.display()
        );
        let config = config::parse(Path::new("kas.yaml"), &text).unwrap().config;
        let reloader = Reloader::new(Path::new("kas.yaml"), &config, None);
        assert_eq!(reloader.needs_restart(&config.show()), [""; 0]);

        std::fs::write(&secret, "another").unwrap();

        assert_eq!(
            reloader.needs_restart(&config.show()),
            ["api.listen.authentication_secret_file (its file)"]
        );
    }
}
