//! Tokens and what callers prove themselves with; never printed.

use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

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
        are_same(self.0.secret.as_bytes(), secret.as_bytes())
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
        hex::encode(&self.0[..FINGERPRINT_BYTES])
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        are_same(&self.0, &other.0)
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

/// Whether these are the same bytes, in the same time for all of one length: eight at a time, since each request and
/// each tunnel has some compared.
fn are_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let ((words, rest), (other_words, other_rest)) = (one.as_chunks(), other.as_chunks());
    let same = words
        .iter()
        .zip(other_words)
        .map(|(one, other)| u64::from_ne_bytes(*one).ct_eq(&u64::from_ne_bytes(*other)));
    let same = same.fold(Choice::from(1), |all, same| all & same);
    (same & rest.ct_eq(other_rest)).into()
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
        for length in 0..40 {
            let one: Vec<u8> = (0..length).collect();
            assert!(are_same(&one, &one.clone()));
            assert!(!are_same(&one, &[&one[..], b"x"].concat()));
            for at in 0..one.len() {
                let mut other = one.clone();
                other[at] ^= 1;
                assert!(!are_same(&one, &other), "{at} of {length}");
            }
        }
        let shown = format!("{:?}", Credentials::Pat { token });
        assert!(!shown.contains("secret"), "{shown}");
    }
}
