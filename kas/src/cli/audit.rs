//! `kas audit`: reads what file sinks of the audit trail have written.

mod play;

use std::{fmt::Write as _, io, path::PathBuf};

use ::audit::{
    search::{Filter, search},
    verify::{Report, verify},
};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use runtime::jwt::Secret;
use serde_json::Value;

use super::{CommandError, Output, duration, output::Format};

/// `kas audit` subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Check that no record was changed, removed, added or moved
    Verify {
        /// Files of the trail, the rotated ones too, in any order
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The last record that is known, as an earlier run or the log of kas has told it: NUMBER:HASH, or HASH
        #[arg(long, value_name = "RECORD")]
        last: Option<String>,
        /// The key of the hashes, where audit.key_file is set
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// The folder of recordings (audit.recording.folder): those that were changed or removed are told too
        #[arg(long, value_name = "FOLDER")]
        recordings: Option<PathBuf>,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Play the recording of an exec or attach, as its user saw it
    Play(play::Play),
    /// Find records
    Search {
        /// Files of the trail
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// What is looked for.
        #[command(flatten)]
        filter: FilterArgs,
        /// Output format; json is one record a line
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// What is looked for.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Who asked: NAME, or user:NAME or ci_job:NAME
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Number or name of the agent
    #[arg(long)]
    agent: Option<String>,
    /// The verb (create, get …), the subresource (exec, log …) or the HTTP method
    #[arg(long)]
    verb: Option<String>,
    /// The kind of record: begin, end, change, admin, recording, start, stop or dropped
    #[arg(long)]
    kind: Option<String>,
    /// The request's id
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Not before this time, such as 2026-11-27T10:00:00Z, or so long ago, such as 24h
    #[arg(long, value_name = "TIME", value_parser = duration::parse_time)]
    since: Option<Timestamp>,
    /// Before this time, in the same forms
    #[arg(long, value_name = "TIME", value_parser = duration::parse_time)]
    until: Option<Timestamp>,
}

/// Runs a subcommand.
pub(super) fn run(action: Action, output: &mut Output<'_>) -> Result<(), CommandError> {
    match action {
        Action::Verify {
            files,
            last,
            key_file,
            recordings,
            output: format,
        } => {
            let key = key_file.as_deref().map(Secret::read).transpose();
            let key = key.map_err(|error| CommandError::Usage(error.to_string()))?;
            let report = verify(&files, key.as_ref(), last.as_deref(), recordings.as_deref());
            let report = report.map_err(unreadable)?;
            match format {
                Format::Json => output.json(&report)?,
                Format::Table => output.result(&shown(&report, key.is_some()))?,
            }
            match report.total_findings {
                0 => Ok(()),
                findings => Err(CommandError::NotSound { findings }),
            }
        }
        Action::Play(args) => play::run(&args, output),
        Action::Search {
            files,
            filter,
            output: format,
        } => {
            let filter = Filter {
                user: filter.user,
                agent: filter.agent,
                verb: filter.verb,
                kind: filter.kind,
                request_id: filter.request_id,
                since: filter.since,
                until: filter.until,
            };
            let found = search(&files, &filter, |line, record| {
                let told = match format {
                    Format::Json => output.result(line),
                    Format::Table => output.result(&summary(record)),
                };
                told.map_err(io::Error::other)
            });
            found.map_err(unreadable)
        }
    }
}

fn unreadable((file, error): (PathBuf, io::Error)) -> CommandError {
    CommandError::Io {
        attempt: format!("cannot read the audit file {}", file.display()),
        error,
    }
}

fn shown(report: &Report, has_key: bool) -> String {
    // Writing to a string does not fail.
    let mut text = String::new();
    for finding in &report.findings {
        let file = finding.file.as_ref().map(|it| it.display().to_string());
        let line = finding.line.map(|it| it.to_string());
        let place: Vec<_> = file.into_iter().chain(line).collect();
        let place = if place.is_empty() {
            String::new()
        } else {
            format!("{}: ", place.join(":"))
        };
        let _ = writeln!(text, "{place}{}", finding.problem);
    }
    if report.total_findings == report.records && !has_key && report.records > 0 {
        text.push_str(
            "No record is sound: where audit.key_file is set, give that file by --key-file\n",
        );
    }
    for chain in &report.chains {
        let _ = writeln!(
            text,
            "chain {} from record {}, last {}",
            chain.chain, chain.first, chain.last
        );
        if chain.first > 0 {
            let _ = writeln!(
                text,
                "  what was before record {} is not in these files",
                chain.first
            );
        }
    }
    let _ = writeln!(
        text,
        "{} records, {} of them not sound; {} lost as their writer says",
        report.records, report.total_findings, report.dropped
    );
    match (report.recordings, report.unchecked_recordings) {
        (0, 0) => {}
        (0, left) => {
            let _ = writeln!(
                text,
                "{left} recordings were not looked at: give their folder by --recordings"
            );
        }
        (sound, _) => {
            let _ = writeln!(text, "{sound} recordings are as they were written");
        }
    }
    text
}

/// A record on one line: when, what, who, where, how it ended.
fn summary(record: &Value) -> String {
    let text = |key: &str| record[key].as_str().unwrap_or_default();
    let mut words = vec![text("time").to_owned(), text("kind").to_owned()];
    let mut add = |word: String| {
        if !word.is_empty() {
            words.push(word);
        }
    };
    add(text("user").to_owned());
    let agent = &record["agent"];
    add(agent["name"]
        .as_str()
        .map(str::to_owned)
        .or_else(|| Some(agent["id"].as_i64()?.to_string()))
        .map_or_else(String::new, |agent| format!("agent={agent}")));
    match text("resource") {
        "" => add(format!("{} {}", text("method"), text("path"))
            .trim()
            .to_owned()),
        resource => {
            let parts = [
                text("namespace"),
                resource,
                text("name"),
                text("subresource"),
            ];
            let parts: Vec<_> = parts.into_iter().filter(|it| !it.is_empty()).collect();
            add(format!("{} {}", text("verb"), parts.join("/")));
        }
    }
    for key in [
        "container",
        "command",
        "status",
        "cut",
        "reason",
        "recording",
        "changes",
        "dropped",
    ] {
        let value = &record[key];
        let wanted = !value.is_null() && *value != Value::Bool(false);
        if wanted {
            add(format!("{key}={value}"));
        }
    }
    add(match text("request_id") {
        "" => String::new(),
        id => format!("request_id={id}"),
    });
    words.join(" ")
}
