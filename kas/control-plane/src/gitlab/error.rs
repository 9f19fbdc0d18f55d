//! Why a call to GitLab gave no answer.

use std::time::Duration;

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is not the JSON that was expected; the parser's words.
    #[error("{0}")]
    Json(String),
    /// A field is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field has an impossible value.
    #[error("{0}")]
    Invalid(String),
    /// It is too long.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// It is of another media type.
    #[error("expected application/json, but got {0:?}")]
    MediaType(String),
    /// It is a refusal, and not in GitLab's form: of a proxy in front of it, perhaps.
    #[error(
        "HTTP status code {status} with {media_type:?} in place of GitLab's JSON; is a proxy in front of GitLab?"
    )]
    ForeignRefusal {
        /// The status.
        status: u16,
        /// What it is.
        media_type: String,
    },
}

impl From<serde_json::Error> for AnswerError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error.to_string())
    }
}

/// Why a call gave no answer. The text may be shown to callers; what only
/// operators should see is in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// GitLab answered with a status that is no success.
    #[error("HTTP status code: {status} for path {path}{}", with(reason.as_deref()))]
    Status {
        /// The status.
        status: u16,
        /// The path asked for.
        path: &'static str,
        /// What GitLab says about it.
        reason: Option<String>,
        /// When to ask again, where GitLab says so.
        retry_after: Option<Duration>,
    },
    /// GitLab refuses this server, not the one it asks for.
    #[error("GitLab refuses this server's own token: {0}")]
    OwnToken(String),
    /// There is no connection, or it broke.
    #[error("GitLab cannot be reached")]
    Unreachable {
        /// Whether it broke, rather than being refused.
        connected: bool,
        /// What happened, with addresses.
        detail: String,
    },
    /// There was no answer in time.
    #[error("GitLab gave no answer within {0:?}")]
    Timeout(Duration),
    /// The answer is not what it should be.
    #[error("GitLab's answer for path {path} cannot be used: {why}")]
    InvalidAnswer {
        /// The path asked for.
        path: &'static str,
        /// What is wrong with it.
        why: AnswerError,
    },
    /// The circuit breaker is open: GitLab failed too often, and is not called for some seconds.
    #[error("GitLab has not answered for {} s, last: {last}", .since.as_secs())]
    CircuitOpen {
        /// For how long.
        since: Duration,
        /// The last failure.
        last: String,
    },
    /// Too many calls are queued.
    #[error("too many requests to GitLab wait for their turn (gitlab.api_rate_limit)")]
    RateLimited,
    /// All connections were in use for too long.
    #[error("too many requests to GitLab wait for its answers")]
    NoConnection,
    /// Too many calls with unknown credentials from one address.
    #[error("too many unknown credentials from this address: try again later")]
    TooManyUnknown,
    /// A request that cannot be made.
    #[error("the request to GitLab cannot be made: {0}")]
    InvalidRequest(String),
}

fn with(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |it| format!(" with reason {it}"))
}

impl CallError {
    /// The status by which GitLab refused who it was asked about.
    #[must_use]
    pub fn refusal(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } if matches!(status, 401 | 403 | 404) => Some(*status),
            _ => None,
        }
    }

    /// Whether GitLab failed, rather than the request being wrong.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500 && *status != 501,
            Self::Unreachable { .. } | Self::Timeout(_) | Self::InvalidAnswer { .. } => true,
            Self::OwnToken(_)
            | Self::CircuitOpen { .. }
            | Self::RateLimited
            | Self::NoConnection
            | Self::TooManyUnknown
            | Self::InvalidRequest(_) => false,
        }
    }

    /// Whether nothing was sent, so that it says nothing of GitLab.
    pub(super) fn is_held_back(&self) -> bool {
        matches!(
            self,
            Self::CircuitOpen { .. }
                | Self::RateLimited
                | Self::NoConnection
                | Self::TooManyUnknown
                | Self::InvalidRequest(_)
        )
    }

    /// Whether the same request may succeed if it is sent again soon.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Status {
                status,
                retry_after,
                ..
            } => match status {
                429 => retry_after.is_some(),
                status => *status >= 500 && *status != 501,
            },
            Self::Unreachable { .. } => true,
            Self::InvalidAnswer { why, .. } => matches!(why, AnswerError::ForeignRefusal { .. }),
            // Slow means loaded: to repeat would double it.
            Self::Timeout(_)
            | Self::OwnToken(_)
            | Self::CircuitOpen { .. }
            | Self::RateLimited
            | Self::NoConnection
            | Self::TooManyUnknown
            | Self::InvalidRequest(_) => false,
        }
    }
}
