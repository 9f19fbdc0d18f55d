//! The sections of the configuration that are this crate's.

use std::path::PathBuf;

/// Whom events of agents' clusters are passed on to, besides readers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Events {
    /// Whether each is a line of the log.
    pub log: bool,
    /// Who is called.
    pub webhooks: Vec<Webhook>,
}

/// Who is called with events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// An http or https URL.
    pub url: String,
    /// The secret that requests are signed with.
    pub secret_file: PathBuf,
    /// A CA besides those of the system.
    pub ca_certificate_file: Option<PathBuf>,
}
