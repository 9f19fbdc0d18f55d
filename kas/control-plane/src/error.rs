//! Why the control plane said no.

use cluster_state::AgentId;
use runtime::jwt::public_keys::TokenRefusal;

use super::{Identity, Retryable};

/// Why a token is not an agent's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No agent has this token: never created, rotated out, or revoked.
    #[error("the token belongs to no agent: it was revoked, or is not for this server")]
    UnknownToken,
    /// The token was good once.
    #[error("the token of agent {agent} has expired")]
    Expired {
        /// The name of the agent it was for.
        agent: String,
    },
    /// The token is good, but its agent must not connect.
    #[error("the agent is not allowed to connect")]
    Forbidden,
    /// The token's agent is gone.
    #[error("there is no such agent any more")]
    NoAgent,
    /// Too many of those who were never known ask from this address; try again.
    #[error("too many unknown credentials from this address: try again later")]
    TooManyUnknownCredentials,
    /// Nobody could say; try again.
    #[error("the control plane cannot be asked: {0}")]
    Unavailable(String),
}

impl AuthError {
    /// Whether the same question may get another answer soon.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TooManyUnknownCredentials)
    }
}

/// Why credentials may not use an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DenyReason {
    /// The token is nobody's.
    #[error("the token is not known: it was revoked, or is not for this server")]
    BadToken,
    /// The token was good once.
    #[error("the token of {who} has expired")]
    Expired {
        /// Whose it was.
        who: String,
    },
    /// The ID token of an OIDC issuer is not good here.
    #[error("the OIDC token is refused: {0}")]
    IdToken(#[from] IdTokenRefusal),
    /// This control plane does not take such credentials.
    #[error("{kind} are not accepted by this server")]
    Unsupported {
        /// What they are called, in the plural.
        kind: &'static str,
    },
    /// There is no such agent.
    #[error("there is no agent with id {agent}")]
    UnknownAgent {
        /// The number asked for.
        agent: AgentId,
    },
    /// They are known, the agent is known, and no rule joins them.
    #[error("{who} may not use agent {agent}: no access rule allows it")]
    NotAllowed {
        /// Who asked.
        who: Identity,
        /// The agent's name.
        agent: String,
    },
    /// GitLab said so, in these words.
    #[error("{words}")]
    Refused {
        /// What kind of refusal it is for the caller.
        kind: RefusedKind,
        /// What it is told.
        words: String,
    },
    /// Too many of those who were never known ask from this address; try again.
    #[error("too many unknown credentials from this address: try again later")]
    TooManyUnknownCredentials,
    /// Nobody could say; try again.
    #[error("the control plane cannot be asked: {0}")]
    Unavailable(String),
}

/// Why an ID token is not good here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenRefusal {
    /// It is not good anywhere, or not for this server.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// Nobody here trusts its issuer.
    #[error("its issuer is not among those that this server trusts")]
    UnknownIssuer,
    /// Its issuer says that it has no such key.
    #[error("it is signed with a key that {issuer} does not publish")]
    UnknownKey {
        /// The issuer.
        issuer: String,
    },
    /// Its issuer may have such a key by now.
    #[error(
        "it is signed with a key that is not known here, and {issuer} cannot be asked for newer ones just now"
    )]
    UnknownKeyInOutage {
        /// The issuer.
        issuer: String,
    },
    /// A claim has not the value that is wanted here.
    #[error("its claim {0} is not as this server requires it")]
    RequiredClaim(String),
    /// Whoever has it may have claimed the address of somebody else.
    #[error("its e-mail address is not verified")]
    EmailNotVerified,
    /// It names nobody whom rules could name.
    #[error(
        "its claim {0} is no name: up to 255 letters, digits and `_`, `-`, `.`, `/`, `@`, `+`, `:`"
    )]
    Name(String),
}

impl IdTokenRefusal {
    /// Whether the same issuer could be trusted with another audience or other claims.
    pub(crate) fn is_about_claims(&self) -> bool {
        matches!(
            self,
            Self::Token(TokenRefusal::Audience)
                | Self::RequiredClaim(_)
                | Self::EmailNotVerified
                | Self::Name(_)
        )
    }
}

/// The kinds of refusals that GitLab has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedKind {
    /// They did not prove who they are.
    Unauthenticated,
    /// They may not.
    Forbidden,
    /// What they ask for is not there.
    NotFound,
}

impl Retryable for AuthError {
    fn is_retryable(&self) -> bool {
        Self::is_retryable(self)
    }
}

impl Retryable for DenyReason {
    fn is_retryable(&self) -> bool {
        Self::is_retryable(self)
    }
}

impl DenyReason {
    /// Whether the same question may get another answer soon.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TooManyUnknownCredentials)
    }

    /// Whether the caller failed to prove who it is, rather than being refused.
    #[must_use]
    pub fn is_unauthenticated(&self) -> bool {
        matches!(
            self,
            Self::BadToken
                | Self::Expired { .. }
                | Self::IdToken(_)
                | Self::Unsupported { .. }
                | Self::Refused {
                    kind: RefusedKind::Unauthenticated,
                    ..
                }
        )
    }
}
