//! The configuration of a replica: one tree, read once, checked, with defaults filled in.
//!
//! Keys, defaults and rules are those of GitLab's kas; `standalone`,
//! `agent.listen.proxy_protocol` and the default of `agent.listen.websocket`
//! (on) are ours. Secrets stay in the files that the tree names, so that it can
//! be printed.

mod file;
mod level;
mod private_url;
mod resolve;
mod secret;
mod tree;

pub use level::LogLevel;
pub use private_url::{OwnAddress, OwnAddressError, OwnAddressVariables};
pub use secret::{Secret, SecretFileError, read_secret_file};
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

/// Reads a configuration file.
pub fn load(file: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    Ok(parse(file, &text)?)
}

/// Reads the text of a configuration file; `file` is for messages only.
pub fn parse(file: &Path, text: &str) -> Result<Config, Mistake> {
    let document: file::Document = yaml::read(file, text)?;
    resolve::resolve(file, document)
}

#[cfg(test)]
mod tests;
