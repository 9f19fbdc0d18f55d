//! Tokens and what callers prove themselves with; never printed.

use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Bytes of a hash that are shown.
const FINGERPRINT_BYTES: usize = 6;

/// A secret that a caller presented. Its `Debug` shows nothing of it. Clones share the secret and its hash.
#[derive(Clone)]
pub struct Token(Arc<Presented>);

struct Presented {
    secret: Box<str>,
    /// Calculated once: an agent shows its token with each tunnel.
    hash: OnceLock<TokenHash>,
}

impl Token {
    /// Takes a secret as it came.
    #[must_use]
    pub fn new(secret: impl Into<Box<str>>) -> Self {
        Self(Arc::new(Presented {
            secret: secret.into(),
            hash: OnceLock::new(),
        }))
    }

    /// Whether it is this secret. Takes the same time for all secrets of its length.
    #[must_use]
    pub fn is(&self, secret: &str) -> bool {
        self.0.secret.as_bytes().ct_eq(secret.as_bytes()).into()
    }

    /// The secret itself; to be sent, never to be logged.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0.secret
    }

    /// Its fingerprint, which is all that is ever kept.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        let hash = || TokenHash(Sha256::digest(self.0.secret.as_bytes()).into());
        *self.0.hash.get_or_init(hash)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The SHA-256 of a token.
///
/// Plain hashing is enough because tokens are long random strings, not
/// passwords: there is no dictionary to try. Looking one up in a hash map does
/// not leak the token by timing either, since a caller cannot choose a token by
/// its hash; `==` is constant-time all the same.
#[derive(Clone, Copy, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// A hash from its bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its beginning as text, by which people tell tokens apart, and nobody finds one.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let bytes = self.0.iter().take(FINGERPRINT_BYTES);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl std::hash::Hash for TokenHash {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// What a caller of the Kubernetes API proxy presented.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// `Bearer ci:<agent id>:<token>`: a CI job, or a service.
    Ci {
        /// The job's or service's token.
        token: Token,
    },
    /// `Bearer pat:<agent id>:<token>`: a user.
    Pat {
        /// The user's token.
        token: Token,
    },
    /// `Bearer oidc:<agent id>:<ID token>`: a user or a workload, of whom an issuer says who it is.
    Oidc {
        /// The ID token, a JWT.
        token: Token,
    },
    /// The `_gitlab_kas` cookie of a browser session.
    Session {
        /// The cookie's unescaped value.
        access_key: Token,
        /// The CSRF token that came with it, possibly empty.
        csrf_token: Token,
    },
}

impl Credentials {
    /// What was presented, whatever it is.
    #[must_use]
    pub fn token(&self) -> &Token {
        match self {
            Self::Ci { token } | Self::Pat { token } | Self::Oidc { token } => token,
            Self::Session { access_key, .. } => access_key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_a_token() {
        let token = Token::new("glagent-very-secret");

        assert_eq!(format!("{token:?}"), "Token(…)");
        assert_eq!(format!("{:?}", token.hash()), "TokenHash(…)");
        assert!(token.is(token.expose()) && !token.is("another") && !token.is(""));
        let shown = format!("{:?}", Credentials::Pat { token });
        assert!(!shown.contains("secret"), "{shown}");
    }
}
