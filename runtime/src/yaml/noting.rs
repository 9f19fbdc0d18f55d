//! Reads a document whose unknown keys are noted and skipped, not refused.
//!
//! A layer around the YAML deserializer: it sees which keys a struct knows,
//! and hands on only those.

mod layer;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    path::Path,
};

use serde::de::DeserializeOwned;

use super::{Spanned, YamlError, mistake, options, unknown};
use layer::Noting;

/// The name of a struct's field, a bool, that is set when there was a key that the struct does not know.
pub(super) const UNKNOWN: &str = "__unknown";

/// What aliases may unfold to, so that a short text does not become a long one.
const REPLAYED_EVENTS_MAX: usize = 20_000;

/// Keys that nobody knows which are noted: each takes up a hundred times as much as it has bytes.
const NOTED_KEYS_MAX: usize = 100;

/// A key that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// Its line, from 1.
    pub line: u64,
    /// Its column, from 1.
    pub column: u64,
    /// The keys that lead to it, with dots between.
    pub path: String,
    /// What it may have been meant to be.
    pub message: String,
}

/// Line and column of each key's value, by the keys that lead to it with dots between. Null is no value.
pub(super) type Places = HashMap<String, (u64, u64)>;

/// What is seen besides the value.
#[derive(Default)]
struct Seen {
    unknown: RefCell<Vec<UnknownKey>>,
    places: RefCell<Places>,
    /// Whether the value that was read last is null.
    null: Cell<bool>,
}

/// Reads a whole document as Go's YAML does (`yes` and `on` are booleans, of keys that are given twice the last
/// one counts), and notes the keys that its type does not know, in sections and in lists: the first hundred.
///
/// A field `__unknown` of type bool, which no document can name, is true in a struct that had such a key.
///
/// # Errors
/// The first mistake, and where it is.
pub fn read_noting<T: DeserializeOwned>(
    file: &Path,
    text: &str,
) -> Result<(T, Vec<UnknownKey>), YamlError> {
    let (value, unknown, _) = read_by(file, text, lenient_options())?;
    Ok((value, unknown))
}

/// Reads the same document as it was written.
///
/// # Errors
/// The first mistake, and where it is.
pub fn read_written(file: &Path, text: &str) -> Result<serde_json::Value, YamlError> {
    let read: Result<Option<serde_json::Value>, _> =
        serde_saphyr::from_str_with_options(text, lenient_options());
    let value = read.map_err(|error| mistake(file, text, &error))?;
    Ok(value.unwrap_or_default())
}

fn lenient_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPLAYED_EVENTS_MAX },
    }
}

/// The same, with the places of values.
pub(super) fn read_placed<T: DeserializeOwned>(
    file: &Path,
    text: &str,
) -> Result<(T, Vec<UnknownKey>, Places), YamlError> {
    read_by(file, text, options())
}

fn read_by<T: DeserializeOwned>(
    file: &Path,
    text: &str,
    options: serde_saphyr::Options,
) -> Result<(T, Vec<UnknownKey>, Places), YamlError> {
    let seen = Seen::default();
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |inner| {
        let place = Place {
            path: String::new(),
            seen: &seen,
        };
        T::deserialize(Noting::around(inner, place))
    });
    let value = read.map_err(|error| mistake(file, text, &error))?;
    Ok((value, seen.unknown.into_inner(), seen.places.into_inner()))
}

/// Where in the document something is.
#[derive(Clone)]
struct Place<'n> {
    path: String,
    seen: &'n Seen,
}

impl Place<'_> {
    fn below(&self, key: &str) -> Self {
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Self {
            path,
            seen: self.seen,
        }
    }

    fn item(&self, index: usize) -> Self {
        Self {
            path: format!("{}[{index}]", self.path),
            seen: self.seen,
        }
    }

    fn note(&self, key: &Spanned<String>, known: &[&str]) {
        let mut noted = self.seen.unknown.borrow_mut();
        if noted.len() >= NOTED_KEYS_MAX {
            return;
        }
        noted.push(UnknownKey {
            line: key.referenced.line(),
            column: key.referenced.column(),
            path: self.below(&key.value).path,
            message: unknown("key", &key.value, known),
        });
    }
}

#[cfg(test)]
mod tests;
