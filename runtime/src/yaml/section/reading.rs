//! Reads and checks a file: where each key stands, and which keys have no effect.

use std::{cell::RefCell, fmt, path::Path};

use serde::de::DeserializeOwned;

use super::Setting;
use crate::yaml::{
    UnknownKey, YamlError,
    noting::{Places, read_placed},
};

/// A key without effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Line and column, for a key that nobody knows.
    pub place: Option<(u64, u64)>,
    /// The keys that lead to it, with dots between.
    pub path: String,
    /// Why it has no effect.
    pub why: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}: ")?;
        }
        write!(f, "{} is ignored: {}", self.path, self.why)
    }
}

impl From<UnknownKey> for Note {
    fn from(key: UnknownKey) -> Self {
        Self {
            place: Some((key.line, key.column)),
            path: key.path,
            why: key.message,
        }
    }
}

/// Reads and checks a whole file; also gives its keys without effect, unknown ones first.
///
/// # Errors
/// The first mistake, and where it is.
pub fn read_section<T: DeserializeOwned + Setting>(
    file: &Path,
    text: &str,
) -> Result<(T, Vec<Note>), YamlError> {
    let (value, unknown, places) = read_placed::<T>(file, text)?;
    let context = Context {
        file,
        places,
        notes: RefCell::default(),
    };
    value.check(&At {
        path: String::new(),
        context: &context,
    })?;
    let mut without_effect = context.notes.into_inner();
    without_effect.sort_by_key(|note| context.places.get(&note.path).copied());
    let notes = unknown.into_iter().map(Note::from);
    Ok((value, notes.chain(without_effect).collect()))
}

#[derive(Debug)]
struct Context<'a> {
    file: &'a Path,
    places: Places,
    notes: RefCell<Vec<Note>>,
}

/// A key of the file that is being checked.
#[derive(Debug)]
pub struct At<'a> {
    path: String,
    context: &'a Context<'a>,
}

impl At<'_> {
    /// The keys that lead to it, with dots between.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A key of this section.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Self {
            path,
            context: self.context,
        }
    }

    /// Whether the file has the key.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.context.places.contains_key(&self.path)
    }

    /// A mistake in its value; at the start of the file if it is not there.
    #[must_use]
    pub fn mistake(&self, message: impl Into<String>) -> YamlError {
        // Of what is in a list the place of the list is known.
        let ends = self.path.match_indices('.').map(|(end, _)| end);
        let mut known = std::iter::once(self.path.len()).chain(ends.rev());
        let place = known.find_map(|end| self.context.places.get(&self.path[..end]));
        let (line, column) = place.copied().unwrap_or((1, 1));
        YamlError {
            file: self.context.file.to_owned(),
            line,
            column,
            message: message.into(),
        }
    }

    /// Notes that it has no effect.
    pub fn note(&self, why: &str) {
        self.context.notes.borrow_mut().push(Note {
            place: None,
            path: self.path.clone(),
            why: why.to_owned(),
        });
    }
}
