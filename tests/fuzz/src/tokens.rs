//! Tokens that are signed, and the keys that check them.

use std::sync::OnceLock;

use runtime::jwt::{
    self, CheckingKey, Secret, SigningKey,
    public_keys::{PublicKeys, claimed_issuer},
};
use serde_json::Value;

use crate::{Bound, Long, Target, nobody};

/// A token.
pub(crate) const JWT: Target = Target {
    name: "jwt",
    decode: token,
    compare: nobody,
    output: Bound::per_byte(4, 4 << 10),
    memory: Bound::per_byte(256, 64 << 10),
    long: &[
        Long(b"", b"e30.", b""),
        Long(b"eyJhbGciOiJIUzI1NiJ9.", b"W10", b".x"),
        Long(b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiIi", b"AAAA", b".x"),
        Long(b"", b"A", b""),
    ],
};

/// A set of keys as an issuer publishes it, or one key.
pub(crate) const KEY_SET: Target = Target {
    name: "key_set",
    decode: key_set,
    compare: nobody,
    output: Bound::per_byte(2, 4 << 10),
    memory: Bound::per_byte(256, 64 << 10),
    long: &[
        Long(b"{\"keys\":[", b"{},", b"{}]}"),
        Long(b"{\"keys\":[", b"0,", b"0]}"),
        Long(
            b"{\"keys\":[",
            b"{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"},",
            b"{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}",
        ),
        Long(
            b"-----BEGIN PUBLIC KEY-----\n",
            b"AAAA\n",
            b"-----END PUBLIC KEY-----\n",
        ),
        Long(b"", b"A", b""),
    ],
};

/// One of each kind.
const KEYS: &str = r#"{"keys": [
    {"kty": "EC", "crv": "P-256", "kid": "e",
     "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty": "OKP", "crv": "Ed25519", "kid": "d", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    {"kty": "RSA", "kid": "r", "e": "AQAB",
     "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}
]}"#;

fn token(input: &[u8]) -> usize {
    static CHECKED_BY: OnceLock<(PublicKeys, Secret)> = OnceLock::new();
    let (keys, secret) = CHECKED_BY.get_or_init(|| {
        let keys = PublicKeys::parse(KEYS.as_bytes()).expect("these are keys");
        (keys, Secret::new(vec![b'x'; 32]))
    });
    let Ok(text) = std::str::from_utf8(input) else {
        return 0;
    };
    let issuer = claimed_issuer(text);
    let output = match &issuer {
        Ok(issuer) => issuer.len(),
        Err(refusal) => refusal.to_string().len(),
    };
    let audiences = ["kas".to_owned()];
    let verified = keys.verify(text, "https://issuer.example.com", &audiences);
    assert!(verified.is_err(), "a token that nobody signed");
    let read = jwt::read::<Value>(secret, text, "kas", Some("gitlab"));
    let _ = jwt::issued_at(secret, text, "kas", "gitlab");
    match read {
        // It may be signed by who knows this secret, as the corpus is.
        Ok(claims) => output + claims.to_string().len(),
        Err(error) => output + error.to_string().len(),
    }
}

fn key_set(input: &[u8]) -> usize {
    let mut output = match PublicKeys::parse(input) {
        Ok(keys) => keys.ids().map(str::len).sum(),
        Err(error) => error.to_string().len(),
    };
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = (SigningKey::parse(text), CheckingKey::parse(text));
        output += text.len().min(1);
    }
    output
}
