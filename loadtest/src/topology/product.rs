//! Whose kas it is.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A server that speaks the wire protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Product {
    /// This project's.
    #[default]
    Kas,
    /// GitLab's, of 16.5 or later.
    GoKas,
}

impl Product {
    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kas => "kas",
            Self::GoKas => "go-kas",
        }
    }

    /// Whether it cannot be run without a Redis.
    pub(crate) fn needs_redis(self) -> bool {
        self == Self::GoKas
    }
}
