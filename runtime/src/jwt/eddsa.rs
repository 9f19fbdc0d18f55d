//! JWTs of which only one side has the key to sign (EdDSA with Ed25519).

use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer, pem::PemObject};

use super::{Claims, JwtError, VALIDITY};

/// Bytes of a private key (its seed), and of a public key.
const SIZE: usize = 32;
/// What stands before the seed in PKCS#8 (RFC 8410).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// What stands before a public key in its SubjectPublicKeyInfo.
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A key that signs; never printed.
#[derive(Clone)]
pub struct SigningKey(EncodingKey);

/// The key that checks what a [`SigningKey`] signed.
#[derive(Clone)]
pub struct CheckingKey(DecodingKey);

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a private one.
    #[error("it is no Ed25519 private key: PEM, or base64 of its 32 or 64 bytes")]
    Private,
    /// Not a public one.
    #[error("it is no Ed25519 public key: PEM, or base64 of its 32 bytes")]
    Public,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl std::fmt::Debug for CheckingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CheckingKey(..)")
    }
}

impl SigningKey {
    /// Reads a private key: PKCS#8 in PEM, or base64 of the seed, or of seed and
    /// public key, as GitLab gives it.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let der = if text.contains("-----BEGIN") {
            match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
                Ok(PrivateKeyDer::Pkcs8(key)) => key.secret_pkcs8_der().to_vec(),
                Ok(_) | Err(_) => return Err(KeyError::Private),
            }
        } else {
            let bytes = decoded(text).ok_or(KeyError::Private)?;
            if bytes.len() != SIZE && bytes.len() != 2 * SIZE {
                return Err(KeyError::Private);
            }
            [&PKCS8[..], &bytes[..SIZE]].concat()
        };
        let key = EncodingKey::from_ed_der(&der);
        // Only signing shows whether it is a key.
        jsonwebtoken::crypto::sign(b"", &key, Algorithm::EdDSA).map_err(|_| KeyError::Private)?;
        Ok(Self(key))
    }

    /// Signs a token that is valid from five seconds ago for five seconds.
    ///
    /// # Errors
    /// When the signing library refuses.
    pub fn sign(&self, issuer: &str, audience: &str) -> Result<String, JwtError> {
        let claims = Claims::new(issuer, audience, super::unix(), VALIDITY);
        let header = Header::new(Algorithm::EdDSA);
        Ok(jsonwebtoken::encode(&header, &claims, &self.0)?)
    }
}

impl CheckingKey {
    /// Reads a public key: PEM, or base64 of its bytes, as GitLab shows it.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = if text.contains("-----BEGIN") {
            let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes());
            let der = der.map_err(|_| KeyError::Public)?;
            der.strip_prefix(&SPKI).ok_or(KeyError::Public)?.to_vec()
        } else {
            decoded(text).ok_or(KeyError::Public)?
        };
        if bytes.len() != SIZE {
            return Err(KeyError::Public);
        }
        Ok(Self(DecodingKey::from_ed_der(&bytes)))
    }

    /// Checks signature, times, audience and issuer.
    ///
    /// # Errors
    /// [`JwtError`] with the reason.
    pub fn verify(&self, token: &str, issuer: &str, audience: &str) -> Result<(), JwtError> {
        let mut rules = super::rules(audience, Some(issuer));
        rules.algorithms = vec![Algorithm::EdDSA];
        jsonwebtoken::decode::<serde::de::IgnoredAny>(token, &self.0, &rules)?;
        Ok(())
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_whitespace().collect();
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> rcgen::KeyPair {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
    }

    /// The private key as PEM, and the public one as base64.
    fn texts(pair: &rcgen::KeyPair) -> (String, String) {
        (pair.serialize_pem(), STANDARD.encode(pair.public_key_raw()))
    }

    #[test]
    fn what_one_key_signed_passes_with_its_public_key_only() {
        let (private, public) = texts(&pair());
        let key = SigningKey::parse(&private).unwrap();
        let token = key.sign("gitlab-kas", "gitlab-agent").unwrap();
        let check = |public: &str, issuer, audience| {
            let key = CheckingKey::parse(public).unwrap();
            key.verify(&token, issuer, audience)
        };

        check(&public, "gitlab-kas", "gitlab-agent").unwrap();
        assert!(check(&public, "gitlab-agent", "gitlab-agent").is_err());
        assert!(check(&public, "gitlab-kas", "gitlab-kas").is_err());
        assert!(check(&texts(&pair()).1, "gitlab-kas", "gitlab-agent").is_err());
    }

    #[test]
    fn keys_are_read_in_all_their_forms() {
        let pair = pair();
        let (pem, public) = texts(&pair);
        let der = pair.serialize_der();
        let at = der.windows(2).position(|it| it == [0x04, 0x20]).unwrap() + 2;
        let seed = &der[at..at + SIZE];
        let both = [seed, pair.public_key_raw()].concat();
        let check = CheckingKey::parse(&pair.public_key_pem()).unwrap();

        for private in [pem, STANDARD.encode(seed), STANDARD.encode(both) + "\n"] {
            let token = SigningKey::parse(&private).unwrap().sign("i", "a").unwrap();
            check.verify(&token, "i", "a").unwrap();
            let same = CheckingKey::parse(&public).unwrap();
            same.verify(&token, "i", "a").unwrap();
        }
    }

    #[test]
    fn other_texts_are_no_keys_and_keys_are_never_printed() {
        let (private, public) = texts(&pair());
        let ecdsa = rcgen::KeyPair::generate().unwrap();

        for wrong in ["", "x", "AAAA", &public[..20], &ecdsa.serialize_pem()] {
            assert!(SigningKey::parse(wrong).is_err(), "{wrong}");
            assert!(CheckingKey::parse(wrong).is_err(), "{wrong}");
        }
        assert!(CheckingKey::parse(&ecdsa.public_key_pem()).is_err());
        let key = SigningKey::parse(&private).unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey(..)");
    }
}
