//! Why a receptive agent is not connected.

use router::AgentId;
use runtime::{
    connect::{ConnectError, TargetError},
    jwt::{JwtError, KeyError},
    tls::TlsError,
};
use tonic::Status;

/// How the TLS library begins its message for an alert of the other end.
const ALERT_PREFIX: &str = "received fatal alert: ";

/// Why a receptive agent could not be dialled, or was lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The URL cannot be parsed.
    #[error(transparent)]
    Url(#[from] TargetError),
    /// The key or the certificate cannot be read.
    #[error("{0}")]
    Material(String),
    /// The key cannot be parsed.
    #[error("cannot use the private key for this agent")]
    Key(#[from] KeyError),
    /// The token cannot be signed.
    #[error("cannot sign the token for this agent")]
    Sign(#[from] JwtError),
    /// The certificates cannot be loaded.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No connection was made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The other end does not speak HTTP/2.
    #[error("the server at this URL does not speak HTTP/2")]
    Protocol(#[source] h2::Error),
    /// The agent rejects kas's client certificate, or requires one.
    #[error("the agent rejects the certificate of kas ({0}): {hint}", hint = hint(.0))]
    Certificate(String),
    /// The agent refused the call.
    #[error("{}", refusal(.0))]
    Refused(Box<Status>),
    /// The agent accepted the call, and then showed no token.
    #[error("the server at this URL accepted the call, but no agent showed a token in time")]
    Silent,
    /// Another agent answered.
    #[error("another agent answers at this URL: {0}; each agent needs a URL of its own")]
    Other(AgentId),
    /// The agent's token is not valid.
    #[error("the agent at this URL has an invalid token: {0}")]
    Token(String),
    /// An established connection was lost.
    #[error("the connection ended")]
    Ended,
}

impl DialError {
    /// With TLS 1.3 a client hears only after the handshake that its certificate was rejected.
    pub(super) fn of_http2(error: h2::Error) -> Self {
        let said = error.get_io().map(ToString::to_string);
        let alert = said.as_deref().and_then(|it| it.strip_prefix(ALERT_PREFIX));
        match alert {
            Some(alert) => Self::Certificate(alert.to_owned()),
            None => Self::Protocol(error),
        }
    }

    /// Whether the agent does not know the form in which its calls were to come.
    pub(super) fn is_unknown_form(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == tonic::Code::Unimplemented)
    }

    /// The label `state` of the metric `receptive_agent`.
    pub(super) fn state(&self) -> &'static str {
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
        return format!(
            "the server at this URL does not serve this kind of receptive agent: {message}"
        );
    }
    format!("the agent refused the call ({code:?}): {message}")
}
