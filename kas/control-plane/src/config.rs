//! The sections of the configuration that are this crate's.

use std::{path::PathBuf, time::Duration};

/// A GitLab, and how it is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct GitLab {
    /// Its URL, for requests.
    pub address: String,
    /// Its URL for people: told to agents, and the origin whose browsers may call.
    pub external_url: Option<String>,
    /// The secret that it and replicas share.
    pub authentication_secret_file: PathBuf,
    /// A CA besides those of the system.
    pub ca_certificate_file: Option<PathBuf>,
    /// How many requests it gets.
    pub api_rate_limit: RateLimit,
    /// How long agents keep working after the time of an answer while GitLab is away.
    pub agents_grace: Duration,
    /// The same for users and jobs.
    pub callers_grace: Duration,
}

/// Limits of calls to Gitaly.
#[derive(Debug, Clone, PartialEq)]
pub struct Gitaly {
    /// For all servers together.
    pub global: RateLimit,
    /// For each server.
    pub per_server: RateLimit,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Tokens that come in a second.
    pub refill_rate_per_second: f64,
    /// Tokens that fit.
    pub bucket_size: u32,
}
