//! JWTs of issuers that publish their keys (RFC 7517), such as OpenID providers.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode_header,
    errors::ErrorKind,
    jwk::{Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The longest token, in bytes: headers hold no more either at most servers.
pub const TOKEN_MAX_BYTES: usize = 16 << 10;
/// Keys of one issuer that are kept.
const KEYS_MAX: usize = 100;
/// How far the clocks of an issuer and of this machine may be apart, in seconds.
const LEEWAY_SECONDS: u64 = 10;
/// Signatures by which anybody can check and only the issuer can sign.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// The keys that an issuer publishes, as far as they check signatures of a kind that is taken.
#[derive(Clone, Default)]
pub struct PublicKeys(Vec<PublicKey>);

#[derive(Clone)]
struct PublicKey {
    id: Option<String>,
    /// The only one it is for; any of its kind if absent.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl std::fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

/// A text that is no set of keys.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// It is no JSON of that form.
    #[error("it is no JSON Web Key Set: {0}")]
    Json(#[from] serde_json::Error),
    /// No key in it can be used.
    #[error("none of its {0} keys is for signatures with RS, PS, ES or EdDSA")]
    NoKey(usize),
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// It has not the form of one, or is longer than [`TOKEN_MAX_BYTES`].
    #[error("it is not a signed JWT")]
    Malformed,
    /// It is not signed, or so that those who check could have signed it too, or says that more must be understood.
    #[error("its signature is not one of RS, PS, ES256, ES384 or EdDSA")]
    Algorithm,
    /// The issuer has no such key.
    #[error("it is signed with a key that its issuer does not publish")]
    UnknownKey,
    /// The key did not sign this.
    #[error("its signature is wrong")]
    Signature,
    /// It was good once.
    #[error("it has expired")]
    Expired,
    /// It will be good.
    #[error("it is not valid yet: the clocks of its issuer and of this server differ")]
    Early,
    /// It is for somebody else.
    #[error("it is for another audience")]
    Audience,
    /// It is of somebody else.
    #[error("it is of another issuer")]
    Issuer,
    /// It has no such claim, or not in the usual form.
    #[error("it lacks one of the claims iss, aud and exp")]
    MissingClaim,
}

impl PublicKeys {
    /// Reads a JSON Web Key Set. Keys of other kinds, such as shared secrets, are left out.
    ///
    /// # Errors
    /// When it is none, or has no key that can be used.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(json)?;
        let count = set.keys.len();
        let keys = set.keys.into_iter().filter_map(PublicKey::read);
        let keys: Vec<_> = keys.take(KEYS_MAX).collect();
        match keys.is_empty() {
            true => Err(KeySetError::NoKey(count)),
            false => Ok(Self(keys)),
        }
    }

    /// The names of the keys that have one.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|key| key.id.as_deref())
    }

    /// The claims of a token that one of these keys signed, for one of these audiences, within its time.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(
        &self,
        token: &str,
        issuer: &str,
        audiences: &[String],
    ) -> Result<Map<String, Value>, TokenRefusal> {
        let header = header(token)?;
        let mut rules = Validation::new(header.alg);
        rules.leeway = LEEWAY_SECONDS;
        rules.validate_nbf = true;
        rules.set_audience(audiences);
        rules.set_issuer(&[issuer]);
        rules.set_required_spec_claims(&["exp", "aud", "iss"]);
        let mut refusal = TokenRefusal::UnknownKey;
        for key in self.candidates(header.kid.as_deref(), header.alg) {
            let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &rules);
            match claims {
                Ok(data) => return Ok(data.claims),
                Err(error) => refusal = refused(error.kind()),
            }
            if refusal != TokenRefusal::Signature {
                break;
            }
        }
        Err(refusal)
    }

    /// The key of this name. A token without a name may be of any key, and a key without a name has signed any.
    fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &PublicKey> {
        self.0.iter().filter(move |key| {
            let is_named = match (id, key.id.as_deref()) {
                (Some(wanted), Some(id)) => wanted == id,
                (None, _) | (_, None) => true,
            };
            is_named
                && key.key.family() == algorithm.family()
                && key.algorithm.is_none_or(|only| only == algorithm)
        })
    }
}

impl PublicKey {
    fn read(json: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(json).ok()?;
        let purpose = jwk.common.public_key_use.as_ref();
        if purpose.is_some_and(|it| *it != PublicKeyUse::Signature) {
            return None;
        }
        let algorithm = match jwk.common.key_algorithm {
            None => None,
            Some(algorithm) => Some(Algorithm::try_from(algorithm).ok()?),
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let is_public = ALGORITHMS.iter().any(|it| it.family() == key.family());
        is_public.then_some(Self {
            id: jwk.common.key_id,
            algorithm,
            key,
        })
    }
}

/// The issuer that a token says it is of: nothing of it is checked.
///
/// # Errors
/// When it has not the form of a token that could be good.
pub fn claimed_issuer(token: &str) -> Result<String, TokenRefusal> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
    }
    header(token)?;
    let payload = token.split('.').nth(1).ok_or(TokenRefusal::Malformed)?;
    let payload = URL_SAFE_NO_PAD.decode(payload);
    let payload = payload.map_err(|_| TokenRefusal::Malformed)?;
    let claims: Result<Claims, _> = serde_json::from_slice(&payload);
    Ok(claims.map_err(|_| TokenRefusal::MissingClaim)?.iss)
}

fn header(token: &str) -> Result<jsonwebtoken::Header, TokenRefusal> {
    if token.len() > TOKEN_MAX_BYTES || token.split('.').count() != 3 {
        return Err(TokenRefusal::Malformed);
    }
    // One that names no algorithm that the library knows, such as `none`, cannot be decoded.
    let header = decode_header(token).map_err(|_| TokenRefusal::Algorithm)?;
    match ALGORITHMS.contains(&header.alg) && header.crit.is_none() {
        true => Ok(header),
        false => Err(TokenRefusal::Algorithm),
    }
}

fn refused(why: &ErrorKind) -> TokenRefusal {
    match why {
        ErrorKind::ExpiredSignature => TokenRefusal::Expired,
        ErrorKind::ImmatureSignature => TokenRefusal::Early,
        ErrorKind::InvalidAudience => TokenRefusal::Audience,
        ErrorKind::InvalidIssuer => TokenRefusal::Issuer,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => {
            TokenRefusal::MissingClaim
        }
        ErrorKind::InvalidToken | ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            TokenRefusal::Malformed
        }
        _ => TokenRefusal::Signature,
    }
}
