//! One `kas up` at a time in a data directory: two would change each other's accounts and kubeconfig.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
};

/// The lock's file in the data directory, which says which process holds it.
const NAME: &str = "up.lock";
/// More than a process id has.
const HOLDER_BYTES: u64 = 32;

/// Held until dropped, or until the process ends, however it does.
#[derive(Debug)]
pub(super) struct DataLock {
    _file: File,
}

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    #[error("cannot lock {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error(
        "{} is in use by another `kas up`{}: end it, or name another directory with --data-dir",
        directory.display(),
        process.as_ref().map(|id| format!(", process {id}")).unwrap_or_default()
    )]
    Held {
        directory: PathBuf,
        process: Option<u32>,
    },
}

impl DataLock {
    /// Takes the directory for this process.
    pub(super) fn take(directory: &Path) -> Result<Self, LockError> {
        let path = directory.join(NAME);
        let failed = |error| LockError::Io {
            path: path.clone(),
            error,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.mode(0o600).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held {
                    directory: directory.to_owned(),
                    process: holder(&file),
                });
            }
        }
        // What the one before has written is longer, perhaps.
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", process::id()));
        written.map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// None for the moment in which it has the lock and has not yet said so.
fn holder(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(HOLDER_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it_and_gets_it_afterwards() {
        let data = tempfile::tempdir().unwrap();
        // Of one that has crashed.
        std::fs::write(data.path().join(NAME), "4294967295 and more\n").unwrap();
        let first = DataLock::take(data.path()).unwrap();

        let second = DataLock::take(data.path()).unwrap_err().to_string();

        let holder = format!("another `kas up`, process {}:", process::id());
        assert!(second.contains(&holder), "{second}");
        drop(first);
        DataLock::take(data.path()).unwrap();
    }
}
