//! `kas check-config FILE`: what a configuration file means to this version.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use runtime::yaml::{self, NonEmpty};

use super::{CommandError, Output};
use crate::config::{self, Config, ControlPlaneConfig};

/// Prints the effective configuration, keys without effect and likely mistakes.
pub(super) fn run(file: &Path, output: &mut Output<'_>) -> Result<(), CommandError> {
    let loaded = config::load(file)?;
    output.result(&report(file, &loaded))
}

fn report(file: &Path, loaded: &config::Loaded) -> String {
    let mut text = format!(
        "# The configuration of {}, with every default; secrets stay in the files named.\n{}",
        file.display(),
        yaml::write(&loaded.config.show())
    );
    let ignored = loaded
        .notes
        .iter()
        .map(|note| format!("{}:{note}", file.display()));
    section(&mut text, "Ignored", ignored.collect());
    section(&mut text, "Check", mistakes(&loaded.config));
    text
}

fn section(text: &mut String, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    // Writing to a string does not fail.
    let _ = writeln!(text, "\n# {title}:");
    for line in lines {
        let _ = writeln!(text, "#   {line}");
    }
}

/// Likely mistakes: valid values that are probably not intended, and files that are missing.
fn mistakes(config: &Config) -> Vec<String> {
    let mut mistakes = Vec::new();
    if let ControlPlaneConfig::GitLab(gitlab) = config.control_plane() {
        match &gitlab.external_url {
            None => mistakes.push(
                "gitlab.external_url is not set: browsers of no origin may use the Kubernetes API"
                    .to_owned(),
            ),
            Some(NonEmpty(url)) if !is_origin(url) => mistakes.push(format!(
                "gitlab.external_url `{url}` has a path: browsers send only scheme, host and port \
                 as their origin, so none may use the Kubernetes API"
            )),
            Some(_) => {}
        }
    }
    let missing = files(config)
        .into_iter()
        .filter(|(_, file)| !file.is_file());
    mistakes
        .extend(missing.map(|(key, file)| format!("{key}: there is no file {}", file.display())));
    mistakes
}

fn is_origin(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    !rest.contains(['/', '?'])
}

/// The files that the server reads when it starts.
fn files(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let mut files = Vec::new();
    match config.control_plane() {
        ControlPlaneConfig::Standalone(file) => files.push(("standalone.file", file.to_owned())),
        ControlPlaneConfig::GitLab(gitlab) => {
            let secret = gitlab.authentication_secret_file.0.clone();
            files.push(("gitlab.authentication_secret_file", secret));
            let ca = gitlab.ca_certificate_file.clone();
            files.extend(ca.map(|ca| ("gitlab.ca_certificate_file", ca)));
        }
    }
    if let Some(api) = &config.api {
        let secret = api.listen.authentication_secret_file.0.clone();
        files.push(("api.listen.authentication_secret_file", secret));
    }
    if let Some(private) = &config.private_api {
        let secret = private.listen.authentication_secret_file.0.clone();
        files.push(("private_api.listen.authentication_secret_file", secret));
    }
    if let Some(redis) = &config.redis {
        let password = redis.password_file.clone();
        files.extend(password.map(|it| ("redis.password_file", it)));
    }
    files
}
