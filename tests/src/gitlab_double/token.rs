//! kas's own token, checked as GitLab does; not by the library that kas signs with.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    Form,
    Algorithm,
    Signature,
    Issuer,
    Audience,
    Expired,
    TooEarly,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Value,
    exp: i64,
    nbf: i64,
    iat: i64,
}

/// Checks a token at a time in Unix seconds.
pub(super) fn check(token: &str, secret: &[u8], now: i64) -> Result<(), Bad> {
    let (signed, signature) = token.rsplit_once('.').ok_or(Bad::Form)?;
    let (header, claims) = signed.split_once('.').ok_or(Bad::Form)?;
    let header: Header = part(header)?;
    if header.alg != "HS256" {
        return Err(Bad::Algorithm);
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Bad::Form)?;
    if signature != hmac(secret, signed.as_bytes()) {
        return Err(Bad::Signature);
    }
    let claims: Claims = part(claims)?;
    if claims.iss != "gitlab-kas" {
        return Err(Bad::Issuer);
    }
    if claims.aud != serde_json::json!(["gitlab"]) {
        return Err(Bad::Audience);
    }
    if claims.exp <= now {
        return Err(Bad::Expired);
    }
    if claims.nbf > now || claims.iat > now + 5 {
        return Err(Bad::TooEarly);
    }
    Ok(())
}

fn part<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Bad> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Bad::Form)?;
    serde_json::from_slice(&bytes).map_err(|_| Bad::Form)
}

/// Signs a token of these claims.
pub(super) fn sign(claims: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = serde_json::json!({"alg": "HS256", "typ": "JWT"});
    let signed = format!("{}.{}", part(&header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(hmac(secret, signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// HMAC-SHA256 of RFC 2104, for keys of at most a block.
pub(super) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message);
    let outer = Sha256::new().chain_update(pad(0x5c));
    outer.chain_update(inner.finalize()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hmac_is_that_of_rfc_4231() {
        let mac = hmac(b"Jefe", b"what do ya want for nothing?");

        let start: Vec<_> = mac.iter().take(4).copied().collect();
        assert_eq!(start, [0x5b, 0xdc, 0xc1, 0x46]);
    }

    #[test]
    fn each_claim_counts() {
        let good = |change: &dyn Fn(&mut Value)| {
            let mut claims = serde_json::json!({
                "iss": "gitlab-kas", "aud": ["gitlab"], "exp": 130, "nbf": 95, "iat": 100,
            });
            change(&mut claims);
            sign(&claims, b"key")
        };
        let check = |token: &str, now| check(token, b"key", now);

        assert_eq!(check(&good(&|_| {}), 100), Ok(()));
        assert_eq!(check(&good(&|_| {}), 130), Err(Bad::Expired));
        assert_eq!(check(&good(&|_| {}), 94), Err(Bad::TooEarly));
        assert_eq!(
            check(&good(&|c| c["iss"] = "x".into()), 100),
            Err(Bad::Issuer)
        );
        assert_eq!(
            check(&good(&|c| c["aud"] = "gitlab".into()), 100),
            Err(Bad::Audience)
        );
        assert_eq!(
            super::check(&good(&|_| {}), b"other", 100),
            Err(Bad::Signature)
        );
        assert_eq!(check("a.b", 100), Err(Bad::Form));
    }
}
