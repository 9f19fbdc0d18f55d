//! A file that one process at a time holds, next to what it changes.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Why it is not held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It cannot be opened.
    #[error("cannot open the lock file")]
    Open(#[source] io::Error),
    /// The file system has no locks.
    #[error("cannot lock")]
    Lock(#[source] io::Error),
    /// Another process has held it all the time.
    #[error("another process holds it")]
    Held,
}

/// A lock, held until it is dropped, by the process: a crash frees it.
#[derive(Debug)]
pub struct LockFile {
    _file: File,
}

impl LockFile {
    /// Takes it, and waits so long for who has it. Blocks: not for async code.
    ///
    /// # Errors
    /// [`LockError`]
    pub fn take(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(LockError::Open)?;
        let mut left = patience.as_millis() / RETRY_INTERVAL.as_millis();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(error)) => return Err(LockError::Lock(error)),
                Err(TryLockError::WouldBlock) if left == 0 => return Err(LockError::Held),
                Err(TryLockError::WouldBlock) => pause(),
            }
            left -= 1;
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "waiting for a lock is not for async code"
)]
fn pause() {
    std::thread::sleep(RETRY_INTERVAL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it.lock");

        let first = LockFile::take(&path, Duration::ZERO).unwrap();
        let second = LockFile::take(&path, Duration::ZERO);
        drop(first);

        assert!(matches!(second, Err(LockError::Held)));
        assert!(LockFile::take(&path, Duration::ZERO).is_ok());
    }
}
