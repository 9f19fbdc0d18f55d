//! What goes wrong with audit records.

use std::{io, path::PathBuf, time::Duration};

use runtime::{connect::TargetError, jwt::SecretError, tls::TlsError};

/// Why audit records cannot be kept as configured.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The key of the chain cannot be read.
    #[error("audit.key_file")]
    Key(#[from] SecretError),
    /// The file cannot be opened, or written.
    #[error("{key}: cannot open the audit file {}", file.display())]
    File {
        /// The sink.
        key: String,
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Two processes would break the chain of each other.
    #[error(
        "{key}: another process writes the audit file {}; give each replica a file of its own",
        file.display()
    )]
    InUse {
        /// The sink.
        key: String,
        /// The file.
        file: PathBuf,
    },
    /// The URL cannot be used.
    #[error("{key}")]
    Url {
        /// The sink.
        key: String,
        /// Why.
        #[source]
        source: TargetError,
    },
    /// The CA cannot be used.
    #[error("{key}")]
    Tls {
        /// The sink.
        key: String,
        /// Why.
        #[source]
        source: Box<TlsError>,
    },
    /// The folder of recordings cannot be used.
    #[error("audit.recording.folder: cannot use {}", folder.display())]
    Recordings {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Two processes would remove the recordings of each other.
    #[error(
        "audit.recording.folder: another process records in {}; give each replica a folder of its own",
        folder.display()
    )]
    RecordingsInUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The token cannot be read, or is none.
    #[error("{key}: cannot use the token file {}", file.display())]
    Token {
        /// The sink.
        key: String,
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a request cannot be let through: nothing would show that it was made.
#[derive(Debug, thiserror::Error)]
#[error(
    "the audit record of this request was not written within {} s, or too many wait (sink: {sink}), and this server lets none through \
     without one; try again later, or tell its operator",
    waited.as_secs_f64()
)]
pub struct NotRecorded {
    /// Which sink, as in metrics.
    pub sink: String,
    /// How long was waited.
    pub waited: Duration,
}
