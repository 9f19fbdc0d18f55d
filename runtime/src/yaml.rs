//! Reads YAML into typed values, with errors that name file, line and column.

mod field;
mod noting;
mod seconds;
mod section;
mod write;

pub use field::{FilePath, NonEmpty, list};
pub use noting::{UnknownKey, read_noting, read_written};
pub use seconds::{PositiveSeconds, Seconds};
pub use section::{At, NoEffect, Note, Reason, Setting, check_url_path, read_section};
pub use write::write;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, MessageFormatter, UserMessageFormatter};

/// A value and where it stands in its file.
pub type Spanned<T> = serde_saphyr::Spanned<T>;

/// A mistake in a YAML file, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {message}", file.display())]
pub struct YamlError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1.
    pub column: u64,
    /// What is wrong and, where that is known, what to do.
    pub message: String,
}

impl YamlError {
    /// A mistake in the value of a [`Spanned`].
    #[must_use]
    pub fn at<T>(file: &Path, spanned: &Spanned<T>, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: spanned.referenced.line(),
            column: spanned.referenced.column(),
            message: message.into(),
        }
    }
}

/// Reads a whole document. An empty one is the type's default, if all of its keys are optional.
///
/// # Errors
/// The first mistake, and where it is.
pub fn read<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, YamlError> {
    serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| mistake(file, text, &error))
}

/// Reads a document that may have as many entries as fit into its bytes, which the caller has a limit for.
///
/// # Errors
/// The first mistake, and where it is.
pub fn read_long<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, YamlError> {
    serde_saphyr::from_str_with_options(text, long_options(text))
        .map_err(|error| mistake(file, text, &error))
}

/// What is usual, and more where the text is long: each node takes a byte of it, and has two events at most. What makes
/// more of a text than is in it (aliases, depth, merges) stays bounded as ever.
fn long_options(text: &str) -> serde_saphyr::Options {
    let usual = serde_saphyr::Budget::default();
    let mut options = options();
    options.budget = serde_saphyr::budget! {
        max_nodes: usual.max_nodes.max(text.len()),
        max_events: usual.max_events.max(2 * text.len()),
    };
    options
}

/// How all documents are read.
#[must_use]
pub fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { with_snippet: false, strict_booleans: true }
}

/// What the YAML library found, in our words.
#[must_use]
pub fn mistake(file: &Path, text: &str, error: &Error) -> YamlError {
    let error = error.without_snippet();
    let (line, column) = error
        .location()
        .map_or((1, 1), |place| (place.line(), place.column()));
    YamlError {
        file: file.to_owned(),
        line,
        column,
        message: describe(error, key_before(text, line, column)),
    }
}

/// The wording of an error. Those of values are given the name of their key.
fn describe(error: &Error, key: Option<&str>) -> String {
    if let Error::SerdeUnknownField {
        field, expected, ..
    } = error
    {
        return unknown("key", field, expected);
    }
    if let Error::SerdeUnknownVariant {
        variant, expected, ..
    } = error
    {
        return unknown("value", variant, expected);
    }
    if let Error::SerdeMissingField { field, .. } = error {
        return format!("the key `{field}` is missing here");
    }
    if let Error::ExpectedStringKeyForExternallyTaggedEnum { .. }
    | Error::ExpectedMappingEndAfterEnumVariantValue { .. } = error
    {
        return "exactly one key must be given here".to_owned();
    }
    let message = UserMessageFormatter.format_message(error);
    match key {
        Some(key) if message.contains(&format!("{key}: ")) => message.into_owned(),
        Some(key) => format!("{key}: {message}"),
        None => message.into_owned(),
    }
}

/// Bytes of a name that nobody knows which are shown.
const UNKNOWN_NAME_BYTES: usize = 100;

/// The wording for a name that nobody knows.
#[must_use]
pub fn unknown(what: &str, given: &str, known: &[&str]) -> String {
    let given = &given[..given.floor_char_boundary(UNKNOWN_NAME_BYTES)];
    let known = known.iter().copied().filter(|it| *it != noting::UNKNOWN);
    let known: Vec<_> = known.collect();
    match nearest(given, known.iter().copied()) {
        Some(near) => format!("unknown {what} `{given}`, did you mean `{near}`?"),
        None => format!("unknown {what} `{given}`, known are: {}", known.join(", ")),
    }
}

/// The key on the same line before a value.
fn key_before(text: &str, line: u64, column: u64) -> Option<&str> {
    let line = text
        .lines()
        .nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
    let end = line
        .char_indices()
        .nth(usize::try_from(column).ok()?.checked_sub(1)?)
        .map_or(line.len(), |(at, _)| at);
    let before = line[..end].trim_end().strip_suffix(':')?;
    let start = before.rfind(['{', ',', ' ']).map_or(0, |at| at + 1);
    Some(&before[start..]).filter(|key| !key.is_empty())
}

/// The known name that was probably meant.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = given.chars().count();
    // Comparing takes as much room as both lengths multiplied.
    let is_alike = |name: &&str| length.abs_diff(name.chars().count()) <= tolerated(name);
    known
        .into_iter()
        .filter(is_alike)
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= tolerated(name))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many letters of a name may be wrong.
fn tolerated(name: &str) -> usize {
    1 + name.len() / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[derive(Default)]
    struct Doc {
        listen: Option<Listen>,
        level: Option<Level>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read from text")]
    struct Listen {
        address: String,
        certificate_file: Option<String>,
        limit: Option<u32>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Level {
        Debug,
        Error,
    }

    fn error(text: &str) -> String {
        read::<Doc>(Path::new("kas.yaml"), text)
            .expect_err("it is wrong")
            .to_string()
    }

    #[test]
    fn a_typo_is_named_with_its_place_and_the_key_that_was_meant() {
        assert_eq!(
            error("listen:\n  address: a\n  certifcate_file: x\n"),
            "kas.yaml:3:3: unknown key `certifcate_file`, did you mean `certificate_file`?"
        );
        assert_eq!(
            error("level: degub\n"),
            "kas.yaml:1:8: unknown value `degub`, did you mean `debug`?"
        );
    }

    #[test]
    fn a_key_like_no_other_lists_the_known_ones() {
        assert_eq!(
            error("zzz: 1\n"),
            "kas.yaml:1:1: unknown key `zzz`, known are: listen, level"
        );
    }

    #[test]
    fn a_bad_value_is_named_by_its_key() {
        assert_eq!(
            error("listen: {address: a, limit: many}\n"),
            "kas.yaml:1:29: limit: invalid u32"
        );
    }

    #[test]
    fn a_missing_key_is_named() {
        assert_eq!(
            error("listen: {limit: 1}\n"),
            "kas.yaml:1:10: the key `address` is missing here"
        );
    }

    #[test]
    fn broken_yaml_and_repeated_keys_have_a_place() {
        assert!(error("listen: [\n").starts_with("kas.yaml:1:9: "));
        assert!(error("level: error\nlevel: debug\n").starts_with("kas.yaml:2:1: "));
    }

    #[test]
    fn absent_sections_and_an_empty_file_are_nothing() {
        for text in ["", "# nothing\n", "listen:\nlevel: null\n", "{}"] {
            let doc = read::<Doc>(Path::new("f"), text).unwrap();
            assert!(doc.listen.is_none() && doc.level.is_none(), "{text:?}");
        }
    }
}
