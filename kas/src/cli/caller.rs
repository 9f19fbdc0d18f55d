//! `kas user …` and `kas service …`

use std::{path::Path, time::Duration};

use clap::Subcommand;
use control_plane::standalone::{
    Editable,
    change::{CallerKind, ChangeError},
    edit,
    file::CallerEntry,
    tokens::TokenKind,
    view,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    CommandError, Output,
    agent::rotated,
    duration, new_token, now,
    output::{Format, TokenView, summary},
};

/// `kas user` and `kas service` subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Create one and print its token, which is shown only once
    Create {
        /// Name: letters, digits and `_`, `-`, `.`, `/`
        name: String,
        /// Group to put it into; may be repeated
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// How long the token is good; for ever if absent
        #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
        expires_in: Option<Duration>,
    },
    /// List all
    List {
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Create a new token and print it; the old one stays valid for a grace period
    RotateToken {
        /// Name of the user or service
        name: String,
        /// How long the old token stays valid; 0 revokes it immediately
        #[arg(long, default_value = "24h", value_parser = duration::parse)]
        grace: Duration,
        /// How long the new token is good; for ever if absent
        #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
        expires_in: Option<Duration>,
    },
    /// Revoke all tokens
    Revoke {
        /// Name of the user or service
        name: String,
    },
}

pub(super) fn run(
    file: &Path,
    kind: CallerKind,
    action: Action,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    match action {
        Action::Create {
            name,
            groups,
            expires_in,
        } => create(file, kind, (&name, &groups), expires_in, output),
        Action::List { output: format } => list(&view(file)?, kind, format, output),
        Action::RotateToken {
            name,
            grace,
            expires_in,
        } => rotate(file, kind, &name, (grace, expires_in), output),
        Action::Revoke { name } => revoke(file, kind, &name, output),
    }
}

fn create(
    file: &Path,
    kind: CallerKind,
    (name, groups): (&str, &[String]),
    expires_in: Option<Duration>,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let (token, mut entry) = new_token(token_kind(kind), now())?;
    entry.expires_at = expiry(expires_in)?;
    edit(file, |document: &mut Editable| {
        document.create_caller(kind, name, groups, entry)
    })?;
    output.result(token.expose())?;
    let kind = kind.name();
    output.hint(&format!(
        "Created {kind} {name} in {}. The token above is shown only once; \
         grant access with `kas access grant --agent AGENT --{kind} {name} --as …`.",
        file.display()
    ))
}

fn list(
    document: &Editable,
    kind: CallerKind,
    format: Format,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let now = now();
    let callers = document.callers(kind).iter().map(|it| &it.value);
    match format {
        Format::Json => output.json(&callers.map(|it| caller_view(it, now)).collect::<Vec<_>>()),
        Format::Table if document.callers(kind).is_empty() => {
            let kind = kind.name();
            output.hint(&format!(
                "There are no {kind}s: create one with `kas {kind} create NAME`."
            ))
        }
        Format::Table => {
            let row = |it: &CallerEntry| {
                [
                    it.name.as_str().to_owned(),
                    groups(it).join(","),
                    summary(&it.tokens, now),
                ]
            };
            output.table(
                ["NAME", "GROUPS", "TOKENS"],
                &callers.map(row).collect::<Vec<_>>(),
            )
        }
    }
}

fn rotate(
    file: &Path,
    kind: CallerKind,
    name: &str,
    (grace, expires_in): (Duration, Option<Duration>),
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let now = now();
    let (token, mut entry) = new_token(token_kind(kind), now)?;
    entry.expires_at = expiry(expires_in)?;
    let ended = edit(file, |document: &mut Editable| {
        document.rotate_caller(kind, name, entry, grace, now)
    })?;
    output.result(token.expose())?;
    let kind_name = match kind {
        CallerKind::User => "User",
        CallerKind::Service => "Service",
    };
    output.hint(&rotated(kind_name, name, ended, grace))
}

fn revoke(
    file: &Path,
    kind: CallerKind,
    name: &str,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let count = edit(file, |document: &mut Editable| -> Result<_, ChangeError> {
        document.revoke_caller(kind, name)
    })?;
    let kind = kind.name();
    output.hint(&format!(
        "Revoked {count} token(s) of {kind} {name}: `kas {kind} rotate-token {name}` creates a new one."
    ))
}

/// When a token ends that is good so long.
fn expiry(expires_in: Option<Duration>) -> Result<Option<Timestamp>, CommandError> {
    let end = expires_in.map(|it| now().checked_add(it));
    let end = end.transpose();
    end.map_err(|_| CommandError::Usage("--expires-in is too long".to_owned()))
}

fn token_kind(kind: CallerKind) -> TokenKind {
    match kind {
        CallerKind::User => TokenKind::User,
        CallerKind::Service => TokenKind::Service,
    }
}

#[derive(Serialize)]
struct CallerView<'a> {
    name: &'a str,
    groups: Vec<&'a str>,
    tokens: Vec<TokenView>,
}

fn caller_view(caller: &CallerEntry, now: Timestamp) -> CallerView<'_> {
    CallerView {
        name: caller.name.as_str(),
        groups: groups(caller),
        tokens: TokenView::of(&caller.tokens, now),
    }
}

fn groups(caller: &CallerEntry) -> Vec<&str> {
    caller.groups.iter().map(|it| it.as_str()).collect()
}
