//! Files that only their owner may read.

use std::{
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::Context;

/// Writes `text` to `file`, with mode 0600 whatever its mode was before.
///
/// # Errors
/// When the file cannot be written; the message names it.
pub fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(file)
        .and_then(|mut open| {
            // One that was there before keeps its mode otherwise.
            open.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            open.write_all(text.as_bytes())
        })
        .with_context(|| format!("cannot write {}", file.display()))
}
