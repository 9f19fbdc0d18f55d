//! Why a session is not recorded.

use std::{io, sync::Arc};

/// Why a session is not recorded, or not any more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordingError {
    /// There is no folder for recordings.
    #[error("this server keeps no recordings: its operator has to set audit.recording.folder")]
    NoFolder,
    /// As many are recorded as may be.
    #[error("too many sessions are being recorded (limit: {each} per caller, {total} in total)")]
    TooMany {
        /// Of one caller.
        each: usize,
        /// Of all.
        total: usize,
    },
    /// The file cannot be written.
    #[error("the recording cannot be written: {0}")]
    Io(#[source] Arc<io::Error>),
    /// The disk does not keep up.
    #[error("the recording is not written in time")]
    Slow,
    /// It is as large as one may be.
    #[error(
        "the recording has reached the size that one may have ({max_bytes} bytes, audit.recording.max_bytes)"
    )]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// There is no room beside those in progress.
    #[error(
        "sessions in progress fill the folder of recordings, or this caller's half of it ({total_bytes} bytes, \
         audit.recording.total_mib)"
    )]
    NoRoom {
        /// The limit.
        total_bytes: u64,
    },
    /// What is spoken is not understood.
    #[error("the session cannot be recorded: {0}")]
    Unreadable(&'static str),
}

impl From<io::Error> for RecordingError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}
