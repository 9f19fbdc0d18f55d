//! The configuration of a replica: one tree, read once, checked, with defaults filled in.
//!
//! Keys, defaults and rules are those of GitLab's kas; `standalone`,
//! `agent.listen.proxy_protocol` and the default of `agent.listen.websocket`
//! (on) are ours. Secrets stay in the files that the tree names, so that it can
//! be printed.

mod file;
mod interfaces;
mod notes;
mod private_url;
mod resolve;
mod secret;
mod show;
mod tree;

pub use interfaces::interface_addresses;
pub use notes::Note;
pub use private_url::{OwnAddress, OwnAddressError, OwnAddressVariables};
pub use runtime::telemetry::LogLevel;
pub use secret::Secret;
pub use tree::*;

use std::path::{Path, PathBuf};

use crate::yaml::{self, Mistake};

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration file {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It says something wrong.
    #[error(transparent)]
    Mistake(#[from] Mistake),
}

/// A configuration, and what its file says without effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What has effect.
    pub config: Config,
    /// What has none, and why.
    pub notes: Vec<Note>,
}

/// Reads a configuration file.
pub fn load(file: &Path) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    Ok(parse(file, &text)?)
}

/// Reads the text of a configuration file; `file` is for messages only.
pub fn parse(file: &Path, text: &str) -> Result<Loaded, Mistake> {
    let (document, unknown): (file::Document, _) = yaml::read_noting(file, text)?;
    let mut notes: Vec<_> = unknown.into_iter().map(Note::from).collect();
    notes.extend(notes::of(&document));
    let config = resolve::resolve(file, document)?;
    Ok(Loaded { config, notes })
}

#[cfg(test)]
mod tests;
