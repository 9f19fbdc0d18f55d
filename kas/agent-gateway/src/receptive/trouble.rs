//! Why a receptive agent is not connected.

use router::AgentId;
use runtime::{
    connect::{ConnectError, TargetError},
    jwt::{JwtError, KeyError},
    tls::TlsError,
};
use tonic::Status;

/// What begins the words of the TLS library for what the other end says.
const ALERT: &str = "received fatal alert: ";

/// What an operator should look at.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The URL is none.
    #[error(transparent)]
    Url(#[from] TargetError),
    /// The key or the certificate cannot be had.
    #[error("{0}")]
    Material(String),
    /// The key is none.
    #[error("the private key for it cannot be used: {0}")]
    Key(#[from] KeyError),
    /// The library does not sign.
    #[error("its token cannot be signed: {0}")]
    Sign(#[from] JwtError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What was reached does not speak HTTP/2.
    #[error("what answers there does not speak HTTP/2: {0}")]
    Protocol(h2::Error),
    /// It does not take the certificate that kas shows, or misses one.
    #[error("it refuses the certificate of kas ({0}): {hint}", hint = hint(.0))]
    Certificate(String),
    /// It does not let kas in.
    #[error("{}", refusal(.0))]
    Refused(Box<Status>),
    /// It let kas in, and then said nothing.
    #[error("what answers there let kas in, but no agent showed a token in time")]
    Silent,
    /// It is not the agent.
    #[error("another agent answers there: {0}; each agent needs a URL of its own")]
    Other(AgentId),
    /// Its token is not good.
    #[error("the agent that answers there has a token that is not good: {0}")]
    Token(String),
    /// It was connected.
    #[error("the connection ended")]
    Ended,
}

impl Trouble {
    /// TLS 1.3 tells a client only after the handshake that its certificate is
    /// not taken.
    pub(super) fn of_http2(error: h2::Error) -> Self {
        let said = error.get_io().map(ToString::to_string);
        let alert = said.as_deref().and_then(|it| it.strip_prefix(ALERT));
        match alert {
            Some(alert) => Self::Certificate(alert.to_owned()),
            None => Self::Protocol(error),
        }
    }

    /// A word for metrics.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Url(_) => "url",
            Self::Material(_) | Self::Key(_) | Self::Sign(_) | Self::Tls(_) => "credentials",
            Self::Connect(ConnectError::Tls { .. }) => "tls",
            Self::Connect(_) => "unreachable",
            Self::Protocol(_) => "protocol",
            Self::Certificate(_) => "certificate",
            Self::Refused(_) => "refused",
            Self::Silent => "silent",
            Self::Other(_) => "another_agent",
            Self::Token(_) => "token",
            Self::Ended => "ended",
        }
    }
}

fn hint(alert: &str) -> &'static str {
    match alert {
        "CertificateExpired" => "it has expired, or the clocks differ",
        "CertificateRequired" => "it wants one, and kas has none to show there: see `mtls`",
        "UnknownCA" | "DecryptError" => "it is not signed by the CA that the agent was given",
        _ => "see the agent's log",
    }
}

fn refusal(status: &Status) -> String {
    let (code, message) = (status.code(), status.message());
    if code == tonic::Code::Unimplemented {
        return format!("what answers there cannot be dialled by this kas: {message}");
    }
    format!("it does not let kas in ({code:?}): {message}")
}
