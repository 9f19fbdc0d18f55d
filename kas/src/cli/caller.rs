//! `kas user …` and `kas service …`

use std::{path::Path, time::Duration};

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    CommandError, Output,
    agent::rotated,
    duration, new_token, now,
    output::{Format, TokenView, summary},
};
use crate::control_plane::standalone::{
    Editable,
    change::{CallerKind, ChangeError},
    edit,
    file::CallerEntry,
    tokens::TokenKind,
    view,
};

/// What to do with users or services.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Create one and print its token, which is shown only this once
    Create {
        /// Its name: letters, digits and `_`, `-`, `.`, `/`
        name: String,
        /// A group it is in; may be repeated
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// List them
    List {
        /// How
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Print a new token; the old one stays good for a while
    RotateToken {
        /// Whose
        name: String,
        /// For how long the old token stays good; 0 ends it at once
        #[arg(long, default_value = "24h", value_parser = duration::parse)]
        grace: Duration,
    },
    /// Take all tokens away
    Revoke {
        /// Whose
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
        Action::Create { name, groups } => create(file, kind, &name, &groups, output),
        Action::List { output: format } => list(&view(file)?, kind, format, output),
        Action::RotateToken { name, grace } => rotate(file, kind, &name, grace, output),
        Action::Revoke { name } => revoke(file, kind, &name, output),
    }
}

fn create(
    file: &Path,
    kind: CallerKind,
    name: &str,
    groups: &[String],
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let (token, entry) = new_token(token_kind(kind), now())?;
    edit(file, |document: &mut Editable| {
        document.create_caller(kind, name, groups, entry)
    })?;
    output.result(token.expose())?;
    let sort = kind.name();
    output.hint(&format!(
        "Created {sort} {name} in {}. The token above is shown only this once; \
         `kas access grant --agent AGENT --{sort} {name} --as …` says what it may be used for.",
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
            let sort = kind.name();
            output.hint(&format!(
                "There are no {sort}s: `kas {sort} create NAME` makes one."
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
    grace: Duration,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let now = now();
    let (token, entry) = new_token(token_kind(kind), now)?;
    let ended = edit(file, |document: &mut Editable| {
        document.rotate_caller(kind, name, entry, grace, now)
    })?;
    output.result(token.expose())?;
    let sort = match kind {
        CallerKind::User => "User",
        CallerKind::Service => "Service",
    };
    output.hint(&rotated(sort, name, ended, grace))
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
    let sort = kind.name();
    output.hint(&format!(
        "The {sort} {name} lost {count} token(s): `kas {sort} rotate-token {name}` gives a new one."
    ))
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
