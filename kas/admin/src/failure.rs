//! Why a question is not answered, and the codes for it.

use http::StatusCode;
use tonic::{Code, Status};

use crate::v1::Problem;

/// A question that is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It cannot be understood.
    #[error("{0}")]
    Invalid(String),
    /// What it is about is not there.
    #[error("{0}")]
    NotFound(String),
    /// Who asks is not known.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// It comes from a page of another site, or the role of who asks does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// Who asks does so too often, or too many do.
    #[error("{0}")]
    Busy(String),
    /// A part that is needed for it does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// It takes too long to wait for, and may have been done.
    #[error("{0}")]
    Unfinished(String),
}

impl Failure {
    /// The status of HTTP.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unfinished(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Forbidden(_) => Code::PermissionDenied,
            Self::Busy(_) => Code::ResourceExhausted,
            Self::Unavailable(_) => Code::Unavailable,
            // Clients make a call again that was Unavailable.
            Self::Unfinished(_) => Code::DeadlineExceeded,
        }
    }

    pub(crate) fn problem(&self) -> Problem {
        Problem {
            status: self.status().as_u16().into(),
            message: self.to_string(),
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code(), failure.to_string())
    }
}
