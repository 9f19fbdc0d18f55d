//! Finds records in files.

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde_json::Value;

use crate::verify::each_line;

/// What is looked for; what is absent does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Who asked: `user:alice`, or `alice`.
    pub user: Option<String>,
    /// The agent's number or name.
    pub agent: Option<String>,
    /// The verb, as in `create`, or the subresource, as in `exec`.
    pub verb: Option<String>,
    /// The kind of record, as in `begin`.
    pub kind: Option<String>,
    /// The request's id.
    pub request_id: Option<String>,
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

/// Calls `found` with each record that matches, file after file.
///
/// # Errors
/// When a file cannot be read; or that of `found`.
pub fn search(
    files: &[PathBuf],
    filter: &Filter,
    mut found: impl FnMut(&str, &Value) -> io::Result<()>,
) -> Result<(), (PathBuf, io::Error)> {
    for file in files {
        search_in(file, filter, &mut found).map_err(|error| (file.clone(), error))?;
    }
    Ok(())
}

fn search_in(
    file: &Path,
    filter: &Filter,
    found: &mut impl FnMut(&str, &Value) -> io::Result<()>,
) -> io::Result<()> {
    let mut told = Ok(());
    each_line(file, |_, line| {
        let Some(line) = line.filter(|_| told.is_ok()) else {
            return;
        };
        let record = serde_json::from_str::<Value>(line);
        if let Ok(record) = record
            && filter.matches(&record)
        {
            told = found(line, &record);
        }
    })?;
    told
}

impl Filter {
    /// Whether a record is one of those.
    #[must_use]
    pub fn matches(&self, record: &Value) -> bool {
        let text = |key: &str| record[key].as_str().unwrap_or_default();
        let is = |wanted: &Option<String>, key: &str| {
            wanted.as_deref().is_none_or(|wanted| text(key) == wanted)
        };
        let user = text("user");
        let name = user.split_once(':').map_or(user, |(_, name)| name);
        let agent = &record["agent"];
        let is_agent = |wanted: &str| {
            agent["name"].as_str() == Some(wanted)
                || agent["id"]
                    .as_i64()
                    .is_some_and(|id| id.to_string() == wanted)
        };
        let time = || text("time").parse::<Timestamp>().ok();
        let is_verb = |wanted: &str| {
            ["verb", "subresource", "method"]
                .iter()
                .any(|key| text(key).eq_ignore_ascii_case(wanted))
        };
        self.user
            .as_deref()
            .is_none_or(|it| it == user || it == name)
            && self.agent.as_deref().is_none_or(is_agent)
            && self.verb.as_deref().is_none_or(is_verb)
            && is(&self.kind, "kind")
            && is(&self.request_id, "request_id")
            && self
                .since
                .is_none_or(|since| time().is_some_and(|time| time >= since))
            && self
                .until
                .is_none_or(|until| time().is_some_and(|time| time < until))
    }
}
