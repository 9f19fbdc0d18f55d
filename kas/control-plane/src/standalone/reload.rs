//! Follows the file: looks every second whether it is another one, and reads it then.
//!
//! Looking beats being notified: it works on network file systems, and with
//! Kubernetes' mounted ConfigMaps and Secrets, which swap a symbolic link.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, TryLockError},
    time::Duration,
};

use jiff::Timestamp;
use runtime::reloads;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Standalone, StandaloneError, lock, read, text_of};

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a file must stay as it is before it is read: an editor that writes
/// in place shows half of it for a moment.
const SETTLE_TIME: Duration = Duration::from_millis(50);
/// Bytes of a file, at most, that is read while somebody waits for an answer.
const PROMPT_READ_MAX_BYTES: u64 = 1 << 20;
/// How often a file that changes while it is read is read again before that is
/// left to the next look.
const READS_MAX: usize = 10;

/// What was seen of the file so far.
#[derive(Debug)]
pub(super) struct FileState {
    fingerprint: Option<Fingerprint>,
    polled_at: Timestamp,
}

/// Another content has another fingerprint, since an edit changes the time and a swap the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileState {
    /// Taken before the first reading, so that a change meanwhile is noticed.
    pub(super) fn new(file: &Path, now: Timestamp) -> Self {
        Self {
            fingerprint: Fingerprint::of(file),
            polled_at: now,
        }
    }
}

impl Fingerprint {
    /// `None` when the file cannot be looked at.
    fn of(file: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(file).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

impl Standalone {
    /// Follows the file until told to stop. Errors are logged, once for each state of the file.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if !self.settled().await {
                continue;
            }
            let standalone = self.clone();
            let look = move || standalone.look(Timestamp::now());
            if let Err(error) = tokio::task::spawn_blocking(look).await {
                tracing::error!(%error, "checking the control plane file failed");
            }
        }
    }

    /// Whether nobody is writing the file just now.
    async fn settled(&self) -> bool {
        let before = Fingerprint::of(&self.file);
        // Somebody who has changed it is reading it, which may take a while.
        let known = match self.file_state.try_lock() {
            Ok(state) => state.fingerprint,
            Err(TryLockError::Poisoned(state)) => state.into_inner().fingerprint,
            Err(TryLockError::WouldBlock) => return false,
        };
        if before == known {
            return true;
        }
        tokio::time::sleep(SETTLE_TIME).await;
        before == Fingerprint::of(&self.file)
    }

    /// Reads the file if it is another one, and logs what came of it. Blocks: a long file takes seconds.
    pub(super) fn look(&self, now: Timestamp) {
        match self.reload_if_changed(now) {
            Ok(true) => tracing::info!(file = %self.file.display(), "control plane file applied"),
            Ok(false) => {}
            Err(error) => tracing::error!(
                %error,
                "control plane file is invalid; the last valid one stays in force"
            ),
        }
    }

    /// Reads the file again if it is another one than last time; tells whether it was applied.
    ///
    /// Also counts the revision up when a token has ended since the last call.
    pub fn reload_if_changed(&self, now: Timestamp) -> Result<bool, StandaloneError> {
        let mut file_state = lock(&self.file_state);
        let before = std::mem::replace(&mut file_state.polled_at, now);
        let mut fingerprint = Fingerprint::of(&self.file);
        if fingerprint == file_state.fingerprint {
            self.publish_expired_tokens(before, now);
            return Ok(false);
        }
        for _ in 0..READS_MAX {
            let directory = read(&self.file, now);
            let recorded = self.changes.get().map(|it| (it, text_of(&self.file)));
            let after = Fingerprint::of(&self.file);
            if fingerprint == after {
                file_state.fingerprint = fingerprint;
                if directory.is_err() {
                    reloads::refused(&self.file);
                }
                self.apply(directory?);
                if let Some((changes, Ok(text))) = recorded {
                    changes.note(&self.file, &text);
                }
                reloads::succeeded(&self.file);
                return Ok(true);
            }
            // It was written while it was read.
            fingerprint = after;
        }
        Ok(false)
    }

    /// Reads the file now, changed or not.
    ///
    /// # Errors
    /// When it cannot be used; what was read last stays in force.
    pub fn reload(&self, now: Timestamp) -> Result<(), StandaloneError> {
        lock(&self.file_state).fingerprint = None;
        self.reload_if_changed(now).map(drop)
    }

    /// Looks at the file at once, and reads it if it is another one.
    ///
    /// For those who ask with what is not known yet: a token that the CLI has
    /// just made is good at once. A long file is left to the next look: whoever asks would wait for it to be read, and
    /// others on the same thread.
    pub(super) fn reload_now(&self) {
        if Fingerprint::of(&self.file).is_some_and(|it| it.size > PROMPT_READ_MAX_BYTES) {
            return;
        }
        self.look(Timestamp::now());
    }

    fn publish_expired_tokens(&self, before: Timestamp, now: Timestamp) {
        if self.directory.load().any_token_expired(before, now) {
            self.revision.send_modify(|revision| *revision += 1);
        }
    }
}
