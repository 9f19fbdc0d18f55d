//! Levels of logs, as configuration files name them.

use serde::{Deserialize, Serialize};

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What a user would notice.
    #[default]
    #[serde(alias = "0")]
    Info,
    /// Every decision.
    #[serde(alias = "1")]
    Debug,
    /// What needs a look tomorrow.
    #[serde(alias = "2")]
    Warn,
    /// What needs a look now.
    #[serde(alias = "3")]
    Error,
}

impl LogLevel {
    /// Its name, as a filter directive.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}
