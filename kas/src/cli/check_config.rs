//! `kas check-config FILE`: what a configuration file means to this version.

use std::{fmt::Write, path::Path};

use control_plane::standalone::{Shadowed, shadowed, view};
use runtime::yaml::{self, NonEmpty};

use super::{CommandError, Output, access::numbers};
use crate::{
    app::preflight,
    config::{self, Config, ControlPlaneConfig},
};

/// Prints the effective configuration, keys without effect and likely mistakes; fails where the server would not start.
pub(super) fn run(file: &Path, output: &mut Output<'_>) -> Result<(), CommandError> {
    let loaded = config::load(file)?;
    output.result(&report(file, &loaded))?;
    let refusals = preflight::refusals(&loaded.config);
    if refusals.is_empty() {
        return Ok(());
    }
    Err(CommandError::WouldNotStart {
        file: file.to_owned(),
        refusals,
    })
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
    let mut mistakes = mistakes(&loaded.config);
    mistakes.extend(rules_without_effect(&loaded.config));
    section(&mut text, "Check", mistakes);
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

/// Likely mistakes: valid values that are probably not intended.
pub(super) fn mistakes(config: &Config) -> Vec<String> {
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
    mistakes
}

/// Access rules of the standalone file that never decide. One that cannot be read is reported elsewhere.
fn rules_without_effect(config: &Config) -> Vec<String> {
    let ControlPlaneConfig::Standalone(file) = config.control_plane() else {
        return Vec::new();
    };
    let hidden = view(file).map(|document| shadowed(&document));
    let hidden = hidden.unwrap_or_default().into_iter();
    let line = |it: Shadowed| {
        format!(
            "{}:{}: rule {} has no effect: rule {} decides for all that it names",
            file.display(),
            it.line,
            numbers(&[it.rule]),
            numbers(&it.by)
        )
    };
    hidden.map(line).collect()
}

fn is_origin(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    !rest.contains(['/', '?'])
}
