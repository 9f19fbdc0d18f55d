//! Changes the file as a whole: one writer at a time, and readers never see half of it.

use std::{
    fs::{File, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use tempfile::NamedTempFile;

use super::{self as standalone, StandaloneError, file::Document, parse};
use runtime::{
    lock_file::{LockError, LockFile},
    yaml::{self, YamlError},
};

/// A document that keeps the agents' configurations as they were written.
pub type Editable = Document<serde_json::Value>;

const HEADER: &str = "\
# yaml-language-server: $schema=agents.schema.json
# The control plane of kas: agents, users, services and who may use what.
# Running servers follow changes of this file within a second or two.
# `kas access schema > agents.schema.json` beside it lets editors check it.
# `kas agent|user|service|access …` rewrites it as a whole: comments do not survive that.
";

/// The step that gives a new file what the old one has.
const INHERIT: &str = "keep the owner and mode of";

/// How long another writer is waited for: for less than answers of the admin API may take (10 s), so that whoever waits
/// for one is told that nothing was changed.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The system refused a step.
    #[error("cannot {step} {}: {source}", file.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be read, or is too long.
    #[error(transparent)]
    Unreadable(StandaloneError),
    /// Somebody else is changing it.
    #[error("{} is locked: another kas command is changing the file, try again", .0.display())]
    Locked(PathBuf),
    /// What is in it is wrong already.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// The change would have made it wrong.
    #[error("the change would make the file invalid: {0}")]
    Invalid(String),
}

/// The file as it is now; an empty document where there is none.
pub fn view(file: &Path) -> Result<Editable, EditError> {
    let text = text_of(file)?;
    parse(file, &text, Timestamp::now())?;
    Ok(yaml::read_long(file, &text)?)
}

/// Applies a change to the file, which is created when it is missing.
///
/// Nothing is written when the change, or the file before or after it, is
/// wrong. Waits up to five seconds for another writer: not for async code.
pub fn edit<T, E: From<EditError>>(
    file: &Path,
    change: impl FnOnce(&mut Editable) -> Result<T, E>,
) -> Result<T, E> {
    let file = &resolve(file)?;
    let _lock = lock(file)?;
    let mut document = view(file)?;
    let result = change(&mut document)?;
    write(file, &render(file, &document)?)?;
    Ok(result)
}

/// Whether the file could be replaced by this process. Leaves nothing behind.
pub(super) fn check_writable(file: &Path) -> Result<(), EditError> {
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let new = new_beside(file)?;
    match std::fs::metadata(file) {
        Ok(old) => inherit(new.as_file(), &old).map_err(failed(INHERIT, file)),
        Err(_) => Ok(()),
    }
}

fn text_of(file: &Path) -> Result<String, EditError> {
    match standalone::text_of(file) {
        Ok(text) => Ok(text),
        Err(StandaloneError::Missing(_)) => Ok(String::new()),
        Err(error) => Err(EditError::Unreadable(error)),
    }
}

/// The place behind symbolic links, in a directory that exists.
fn resolve(file: &Path) -> Result<PathBuf, EditError> {
    std::fs::create_dir_all(directory(file)).map_err(failed("create the directory of", file))?;
    Ok(std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned()))
}

fn directory(file: &Path) -> &Path {
    file.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// The lock has a file of its own because the file itself is replaced.
fn lock(file: &Path) -> Result<LockFile, EditError> {
    let mut name = file.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    LockFile::take(&path, LOCK_TIMEOUT).map_err(|error| match error {
        LockError::Open(source) => failed("open", &path)(source),
        LockError::Lock(source) => failed("lock", &path)(source),
        LockError::Held => EditError::Locked(path),
    })
}

/// The text of a document, checked like any that is read.
fn render(file: &Path, document: &Editable) -> Result<String, EditError> {
    let body =
        serde_saphyr::to_string(document).map_err(|error| EditError::Invalid(error.to_string()))?;
    let text = format!("{HEADER}{body}");
    if text.len() as u64 > standalone::MAX_FILE_BYTES {
        return Err(EditError::Unreadable(StandaloneError::TooLong(
            file.to_owned(),
        )));
    }
    parse(file, &text, Timestamp::now()).map_err(|mistake| EditError::Invalid(mistake.message))?;
    Ok(text)
}

/// Replaces the file at once, keeping its owner and mode; a new one is the owner's alone.
fn write(file: &Path, text: &str) -> Result<(), EditError> {
    let failed = |step| failed(step, file);
    let mut new = new_beside(file)?;
    new.write_all(text.as_bytes()).map_err(failed("write"))?;
    if let Ok(old) = std::fs::metadata(file) {
        inherit(new.as_file(), &old).map_err(failed(INHERIT))?;
    }
    new.as_file().sync_all().map_err(failed("write"))?;
    new.persist(file)
        .map_err(|error| failed("replace")(error.error))?;
    // The change is there for everybody, whatever becomes of it if the power fails now.
    if let Err(error) = File::open(directory(file)).and_then(|directory| directory.sync_all()) {
        tracing::warn!(%error, file = %file.display(), "the file was replaced, but its directory may not be on the disk yet");
    }
    Ok(())
}

fn new_beside(file: &Path) -> Result<NamedTempFile, EditError> {
    let new = tempfile::Builder::new()
        .prefix(".kas-")
        .tempfile_in(directory(file));
    new.map_err(failed("write beside", file))
}

fn inherit(new: &File, old: &std::fs::Metadata) -> io::Result<()> {
    let own = new.metadata()?;
    if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    new.set_permissions(Permissions::from_mode(old.mode() & 0o777))
}

fn failed(step: &'static str, file: &Path) -> impl FnOnce(io::Error) -> EditError {
    let file = file.to_owned();
    move |source| EditError::Io { step, file, source }
}

#[cfg(test)]
mod tests;
