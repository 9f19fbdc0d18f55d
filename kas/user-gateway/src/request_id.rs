//! The id under which a request is found in the logs of all who had to do with it.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The header in which a client may choose the id, and in which each answer carries it.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// The metadata of calls to agents that carries it.
pub(crate) const METADATA: &str = "x-request-id";
/// A client's id is not longer.
const MAX_BYTES: usize = 128;

/// The id of a request. Clones share its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// The client's id, if it is one of 1 to 128 letters, digits, `.`, `_` and `-`; else a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get(HEADER);
        match sent.filter(|id| is_sane(id.as_bytes())) {
            Some(id) => Self(id.clone()),
            None => Self::new(rand::random()),
        }
    }

    fn new(number: u128) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = Vec::with_capacity(2 * size_of::<u128>());
        for byte in number.to_be_bytes() {
            text.extend([byte >> 4, byte & 0xF].map(|it| DIGITS[usize::from(it)]));
        }
        let value = HeaderValue::from_maybe_shared(Bytes::from(text));
        Self(value.expect("hexadecimal digits make a header value"))
    }

    /// As a header's value.
    pub(crate) fn value(&self) -> HeaderValue {
        self.0.clone()
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_sane(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !id.is_empty() && id.len() <= MAX_BYTES && id.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sent: &str) -> String {
        let headers = HeaderMap::from_iter([(HEADER, sent.parse().unwrap())]);
        RequestId::of(&headers).to_string()
    }

    #[test]
    fn a_sane_id_of_the_client_is_kept() {
        let longest = "a".repeat(MAX_BYTES);
        for id in ["a", "01-abc_D.e", &longest] {
            assert_eq!(of(id), id);
        }
    }

    #[test]
    fn any_other_is_replaced_by_a_new_one() {
        let too_long = "a".repeat(MAX_BYTES + 1);
        for id in ["", "a b", "a\"b", "é", &too_long] {
            let made = of(id);
            assert_eq!(made.len(), 32, "{made}");
            assert!(made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
        }
        assert_ne!(of(""), of(""));
    }

    #[test]
    fn a_new_one_is_written_in_full() {
        assert_eq!(RequestId::new(0xAB).to_string(), format!("{:032x}", 0xAB));
    }
}
