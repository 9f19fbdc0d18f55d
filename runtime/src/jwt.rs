//! The short-lived JWTs by which replicas, GitLab and those who dial agents prove
//! who they are; and in [`public_keys`] those of issuers that publish their keys.

mod eddsa;
pub mod public_keys;

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::Engine;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use zeroize::Zeroizing;

pub use eddsa::{CheckingKey, KeyError, SigningKey};

const VALIDITY: Duration = Duration::from_secs(5);

/// The shortest secret, in bytes: as many as HMAC-SHA256 gives.
pub const SECRET_BYTES: usize = 32;

/// A secret shared by all who sign and check; never printed, and its memory is zeroed when it goes.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A secret file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not standard base64.
    #[error(
        "the secret file {path} is not valid base64; write it with: head -c 32 /dev/urandom | base64"
    )]
    Encoding {
        /// The file.
        path: String,
    },
    /// It is so short that it can be guessed, or empty.
    #[error(
        "the secret file {path} holds {size} bytes, but at least {SECRET_BYTES} are needed; make a new one with: openssl rand -base64 32"
    )]
    Short {
        /// The file.
        path: String,
        /// Its bytes, decoded.
        size: usize,
    },
}

impl Secret {
    /// A secret of these bytes, which are made here or written in a test; those of files are
    /// taken by [`Secret::read`].
    ///
    /// # Panics
    /// When there are fewer than [`SECRET_BYTES`]: there is no short secret.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        assert!(bytes.len() >= SECRET_BYTES, "a secret is too short");
        Self(Zeroizing::new(bytes))
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// The HMAC-SHA256 of a message, in lower-case hexadecimal.
    ///
    /// # Errors
    /// When the signing library refuses.
    pub fn hmac_hex(&self, message: &str) -> Result<String, JwtError> {
        hmac_hex(&self.0, message)
    }

    /// The same in standard base64.
    ///
    /// # Errors
    /// When the signing library refuses.
    pub fn hmac_base64(&self, message: &str) -> Result<String, JwtError> {
        Ok(base64::engine::general_purpose::STANDARD.encode(hmac(&self.0, message)?))
    }

    /// Another secret that follows from this one, for one purpose only.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Self {
        Self::new(self.mac(&[purpose]).into_bytes())
    }

    /// A code that only those who share the secret can make, over just these parts: HMAC-SHA256 in hexadecimal,
    /// each part with its length before it.
    #[must_use]
    pub fn mac(&self, parts: &[&str]) -> String {
        let message: String = parts
            .iter()
            .map(|part| format!("{}:{part}", part.len()))
            .collect();
        self.hmac_hex(&message)
            .expect("every key and message has an HMAC")
    }

    /// Whether this is the code of these parts; in the same time for every wrong one of its length.
    #[must_use]
    pub fn is_mac(&self, parts: &[&str], mac: &str) -> bool {
        let right = self.mac(parts);
        let pairs = right.bytes().zip(mac.bytes());
        let differ = pairs.fold(0, |differ, (a, b)| differ | (a ^ b));
        right.len() == mac.len() && differ == 0
    }

    /// Reads a secret file: standard base64, line ends ignored, at least [`SECRET_BYTES`].
    ///
    /// # Errors
    /// [`SecretError`], naming the file.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let named = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| SecretError::Read {
            path: named(),
            error,
        })?;
        let mut text = Zeroizing::new(text);
        text.retain(|c| !matches!(c, '\r' | '\n'));
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text.as_str())
            .map_err(|_| SecretError::Encoding { path: named() })?;
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            SECRET_BYTES.. => Ok(Self(bytes)),
            size => Err(SecretError::Short {
                path: named(),
                size,
            }),
        }
    }
}

/// The HMAC-SHA256 of a message in lower-case hexadecimal, with a key whose length is not ours to
/// choose.
///
/// # Errors
/// When the signing library refuses.
pub fn hmac_hex(key: &[u8], message: &str) -> Result<String, JwtError> {
    Ok(hex::encode(hmac(key, message)?))
}

fn hmac(key: &[u8], message: &str) -> Result<Vec<u8>, JwtError> {
    let key = EncodingKey::from_secret(key);
    let coded = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256)?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(coded)
        .expect("the library encodes so"))
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: [String; 1],
    exp: u64,
    nbf: u64,
    iat: u64,
}

impl Claims {
    fn new(issuer: &str, audience: &str, now: u64, validity: Duration) -> Self {
        Self {
            iss: issuer.to_owned(),
            aud: [audience.to_owned()],
            exp: now.saturating_add(validity.as_secs()),
            nbf: now.saturating_sub(VALIDITY.as_secs()),
            iat: now,
        }
    }
}

/// Seconds since 1970.
fn unix() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// Claims, and what else a token says.
#[derive(Debug, Serialize)]
struct Extended<'a, T> {
    #[serde(flatten)]
    usual: Claims,
    #[serde(flatten)]
    more: &'a T,
}

/// A token was refused, or could not be made.
#[derive(Debug, thiserror::Error)]
#[error("JWT validation failed: {0}")]
pub struct JwtError(#[from] jsonwebtoken::errors::Error);

impl JwtError {
    /// Whether the token is early or late, and was signed with the secret.
    #[must_use]
    pub fn is_about_time(&self) -> bool {
        use jsonwebtoken::errors::ErrorKind;
        matches!(
            self.0.kind(),
            ErrorKind::ExpiredSignature | ErrorKind::ImmatureSignature
        )
    }
}

/// Signs a token that is valid from five seconds ago for five seconds
/// (HS256, as GitLab's kas does between replicas).
///
/// # Errors
/// When the signing library refuses.
pub fn sign(secret: &Secret, issuer: &str, audience: &str) -> Result<String, JwtError> {
    sign_for(secret, issuer, audience, VALIDITY)
}

/// The same, with the validity that the receiver's documents name.
///
/// # Errors
/// When the signing library refuses.
pub fn sign_for(
    secret: &Secret,
    issuer: &str,
    audience: &str,
    validity: Duration,
) -> Result<String, JwtError> {
    encode(secret, &Claims::new(issuer, audience, unix(), validity))
}

/// The same, for a token that says more than who signed it.
///
/// # Errors
/// When `more` is no object, or the signing library refuses.
pub fn sign_with<T: Serialize>(
    secret: &Secret,
    issuer: &str,
    audience: &str,
    validity: Duration,
    more: &T,
) -> Result<String, JwtError> {
    let usual = Claims::new(issuer, audience, unix(), validity);
    encode(secret, &Extended { usual, more })
}

/// The same as [`sign`], by another clock: `now` is in seconds since 1970.
///
/// # Errors
/// When the signing library refuses.
pub fn sign_at(
    secret: &Secret,
    issuer: &str,
    audience: &str,
    now: u64,
) -> Result<String, JwtError> {
    encode(secret, &Claims::new(issuer, audience, now, VALIDITY))
}

/// The same as [`sign_at`], for a token that says more than who signed it.
///
/// # Errors
/// When `more` is no object, or the signing library refuses.
pub fn sign_at_with<T: Serialize>(
    secret: &Secret,
    issuer: &str,
    audience: &str,
    now: u64,
    more: &T,
) -> Result<String, JwtError> {
    let usual = Claims::new(issuer, audience, now, VALIDITY);
    encode(secret, &Extended { usual, more })
}

fn encode<T: Serialize>(secret: &Secret, claims: &T) -> Result<String, JwtError> {
    let key = EncodingKey::from_secret(&secret.0);
    let header = Header::new(Algorithm::HS256);
    Ok(jsonwebtoken::encode(&header, claims, &key)?)
}

/// Checks signature, times, audience and, if given, issuer.
///
/// # Errors
/// [`JwtError`] with the reason, which is for the log only.
pub fn verify(
    secret: &Secret,
    token: &str,
    audience: &str,
    issuer: Option<&str>,
) -> Result<(), JwtError> {
    read::<IgnoredAny>(secret, token, audience, issuer).map(drop)
}

/// The same, and what the token says.
///
/// # Errors
/// [`JwtError`] with the reason.
pub fn read<T: DeserializeOwned>(
    secret: &Secret,
    token: &str,
    audience: &str,
    issuer: Option<&str>,
) -> Result<T, JwtError> {
    let rules = rules(audience, issuer);
    let key = DecodingKey::from_secret(&secret.0);
    Ok(jsonwebtoken::decode(token, &key, &rules)?.claims)
}

/// When a token was signed, in seconds since 1970, whatever time it is now.
///
/// # Errors
/// [`JwtError`] if signature, audience or issuer are wrong.
pub fn issued_at(
    secret: &Secret,
    token: &str,
    audience: &str,
    issuer: &str,
) -> Result<u64, JwtError> {
    let mut rules = rules(audience, Some(issuer));
    rules.validate_exp = false;
    rules.validate_nbf = false;
    let key = DecodingKey::from_secret(&secret.0);
    let claims = jsonwebtoken::decode::<Claims>(token, &key, &rules)?.claims;
    Ok(claims.iat)
}

fn rules(audience: &str, issuer: Option<&str>) -> Validation {
    let mut rules = Validation::new(Algorithm::HS256);
    rules.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
    rules.leeway = 5;
    rules.validate_nbf = true;
    rules.set_audience(&[audience]);
    rules.set_required_spec_claims(&["exp", "aud"]);
    if let Some(issuer) = issuer {
        rules.set_issuer(&[issuer]);
        rules.set_required_spec_claims(&["exp", "aud", "iss"]);
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_secret_audience_and_issuer_pass() {
        let secret = Secret::new(vec![1; 32]);
        let token = sign(&secret, "gitlab-kas", "gitlab-kas").unwrap();

        verify(&secret, &token, "gitlab-kas", Some("gitlab-kas")).unwrap();
        assert!(verify(&secret, &token, "other", None).is_err());
        assert!(verify(&secret, &token, "gitlab-kas", Some("other")).is_err());
        assert!(verify(&Secret::new(vec![2; 32]), &token, "gitlab-kas", None).is_err());
    }

    #[test]
    fn a_token_of_another_time_is_refused_for_that_and_still_says_when_it_was_signed() {
        let secret = Secret::new(vec![1; 32]);
        for time in [1_000_000, 20_000_000_000] {
            let token = sign_at(&secret, "gitlab-kas", "clock", time).unwrap();

            let refused = verify(&secret, &token, "clock", Some("gitlab-kas")).unwrap_err();
            assert!(refused.is_about_time(), "{refused}");
            let at = |secret, audience| issued_at(secret, &token, audience, "gitlab-kas");
            assert_eq!(at(&secret, "clock").unwrap(), time);
            let wrong = at(&secret, "gitlab-kas").unwrap_err();
            assert!(!wrong.is_about_time(), "{wrong}");
            assert!(at(&Secret::new(vec![2; 32]), "clock").is_err());
        }
    }

    #[test]
    fn a_message_is_signed_as_rfc_4231_shows() {
        assert_eq!(
            hmac_hex(b"Jefe", "what do ya want for nothing?").unwrap(),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_short_secret_file_is_refused_by_name_with_the_way_to_a_good_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let encode = |size| base64::engine::general_purpose::STANDARD.encode(vec![7; size]);
        for size in [0, 1, 31] {
            std::fs::write(file.path(), encode(size)).unwrap();
            let error = Secret::read(file.path()).unwrap_err().to_string();
            assert!(
                error.contains(&file.path().display().to_string()),
                "{error}"
            );
            assert!(error.contains("openssl rand -base64 32"), "{error}");
        }
        let lines = format!("{}\r\n", encode(32));
        std::fs::write(file.path(), lines).unwrap();
        assert_eq!(Secret::read(file.path()).unwrap().size(), 32);
    }

    #[test]
    fn a_code_is_of_its_parts_and_purpose_only() {
        let secret = Secret::new(vec![1; 32]);
        let mac = secret.derive("leases").mac(&["a", "bc"]);

        assert!(secret.derive("leases").is_mac(&["a", "bc"], &mac));
        for (purpose, parts) in [("leases", ["ab", "c"]), ("owners", ["a", "bc"])] {
            assert!(!secret.derive(purpose).is_mac(&parts, &mac));
        }
        assert!(!secret.derive("leases").is_mac(&["a", "bc"], &mac[1..]));
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", Secret::new(vec![b'x'; 32])), "Secret(..)");
    }
}
