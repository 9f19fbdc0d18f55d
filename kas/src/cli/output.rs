//! Output of commands: results on standard output, hints on standard error.

use std::io::Write;

use clap::ValueEnum;
use control_plane::standalone::{
    join_tokens::JoinTokenEntry,
    tokens::{TokenEntry, live},
};
use jiff::Timestamp;
use serde::Serialize;

use super::CommandError;

/// Output format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// JSON.
    Json,
}

/// The two streams that commands print to.
pub struct Output<'a> {
    results: &'a mut dyn Write,
    hints: &'a mut dyn Write,
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").finish_non_exhaustive()
    }
}

impl<'a> Output<'a> {
    /// Results go to one stream (standard output), hints to another (standard error).
    pub fn new(results: &'a mut dyn Write, hints: &'a mut dyn Write) -> Self {
        Self { results, hints }
    }

    pub(super) fn result(&mut self, text: &str) -> Result<(), CommandError> {
        writeln!(self.results, "{}", text.trim_end()).map_err(CommandError::Output)
    }

    /// Text as it is, at once.
    pub(super) fn raw(&mut self, text: &str) -> Result<(), CommandError> {
        let written = self.results.write_all(text.as_bytes());
        let written = written.and_then(|()| self.results.flush());
        written.map_err(CommandError::Output)
    }

    pub(super) fn hint(&mut self, text: &str) -> Result<(), CommandError> {
        writeln!(self.hints, "{text}").map_err(CommandError::Output)
    }

    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), CommandError> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| CommandError::Output(error.into()))?;
        self.result(&text)
    }

    pub(super) fn table<const N: usize>(
        &mut self,
        head: [&str; N],
        rows: &[[String; N]],
    ) -> Result<(), CommandError> {
        self.result(&table(head, rows))
    }
}

fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or_default()
    });
    let line = |cells: [&str; N]| {
        let padded = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let line: Vec<String> = padded.collect();
        format!("{}\n", line.join("   ").trim_end())
    };
    let head = line(head);
    let rows = rows
        .iter()
        .map(|row| line(row.each_ref().map(String::as_str)));
    std::iter::once(head).chain(rows).collect()
}

/// A token in lists: neither the token nor its hash is shown.
#[derive(Debug, Serialize)]
pub(super) struct TokenView {
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    live: bool,
}

impl TokenView {
    pub(super) fn of(tokens: &[TokenEntry], now: Timestamp) -> Vec<Self> {
        let view = |token: &TokenEntry| Self {
            created_at: token.created_at,
            expires_at: token.expires_at,
            live: token.is_live(now),
        };
        tokens.iter().map(view).collect()
    }

    pub(super) fn row(&self) -> [String; 3] {
        [
            self.created_at.to_string(),
            self.expires_at
                .map_or("never".into(), |end| end.to_string()),
            if self.live { "live" } else { "expired" }.into(),
        ]
    }
}

/// A join token in lists.
#[derive(Debug, Serialize)]
pub(super) struct JoinTokenView {
    created_at: Timestamp,
    expires_at: Timestamp,
    state: &'static str,
}

impl JoinTokenView {
    pub(super) fn of(tokens: &[JoinTokenEntry], now: Timestamp) -> Vec<Self> {
        let view = |token: &JoinTokenEntry| Self {
            created_at: token.created_at,
            expires_at: token.expires_at,
            state: match (&token.used_by, token.is_open(now)) {
                (Some(_), _) => "used",
                (None, true) => "good",
                (None, false) => "expired",
            },
        };
        tokens.iter().map(view).collect()
    }

    pub(super) fn row(&self) -> [String; 3] {
        let [created, end] = [self.created_at, self.expires_at].map(|it| it.to_string());
        [created, end, self.state.to_owned()]
    }
}

/// A one-line summary of the tokens' states.
pub(super) fn summary(tokens: &[TokenEntry], now: Timestamp) -> String {
    let first_end = tokens
        .iter()
        .filter(|token| token.is_live(now))
        .filter_map(|token| token.expires_at)
        .min();
    match (live(tokens, now), first_end) {
        (0, _) => "none: create one with rotate-token".to_owned(),
        (live, None) => format!("{live} live"),
        (live, Some(end)) => format!("{live} live, one until {end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["1".to_owned(), "a-long-name".to_owned(), "x".to_owned()],
            ["20".to_owned(), "b".to_owned(), String::new()],
        ];

        assert_eq!(
            table(["ID", "NAME", "TOKENS"], &rows),
            "ID   NAME          TOKENS\n1    a-long-name   x\n20   b\n"
        );
    }
}
