//! A call's metadata as headers of HTTP/2, and as a tunnel carries them.
//!
//! Values of `-bin` keys are base64 in headers and bytes in a tunnel
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). What belongs to a stream and not to its call
//! is left out.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::{
    agent::prototool::{RawEntry, RawValues, Values},
    metadata::{Meta, RawMeta, from_headers},
};

/// Bytes of names and values that a call or an answer may have.
const MAX_BYTES: usize = 32 << 10;

/// The metadata of a call, credentials included.
#[must_use]
pub fn call_meta(headers: &HeaderMap) -> Meta {
    let mut meta = from_headers(headers, |name| name.as_str().to_owned());
    meta.retain(|name, _| is_of_call(name.as_bytes()));
    for (name, Values { value }) in &mut meta {
        if is_binary(name.as_bytes()) {
            value.retain_mut(
                |value| match decoded(value.as_bytes()).map(String::from_utf8) {
                    Some(Ok(text)) => {
                        *value = text;
                        true
                    }
                    Some(Err(_)) | None => false,
                },
            );
        }
    }
    meta
}

/// The headers of a call; `None` when they are more than a call may have.
#[must_use]
pub fn call_headers(meta: &Meta) -> Option<HeaderMap> {
    headers(meta.iter().flat_map(|(name, values)| {
        let values = values.value.iter();
        values.map(|value| (name.as_bytes(), value.as_bytes()))
    }))
}

/// The metadata before or behind the messages of an answer.
#[must_use]
pub fn answer_meta(headers: &HeaderMap) -> RawMeta {
    let names = headers
        .keys()
        .filter(|name| is_of_call(name.as_str().as_bytes()));
    let entries = names.map(|name| {
        let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let value = values.filter_map(|value| match is_binary(name.as_str().as_bytes()) {
            true => decoded(value).map(Bytes::from),
            false => Some(Bytes::copy_from_slice(value)),
        });
        RawEntry {
            key: Bytes::copy_from_slice(name.as_str().as_bytes()),
            value: Some(RawValues {
                value: value.collect(),
            }),
        }
    });
    entries.collect()
}

/// The headers of an answer; `None` when they are more than an answer may have.
#[must_use]
pub fn answer_headers(meta: &RawMeta) -> Option<HeaderMap> {
    headers(meta.iter().flat_map(|entry| {
        let values = entry.value.iter().flat_map(|it| &it.value);
        values.map(|value| (&entry.key[..], &value[..]))
    }))
}

/// Names and values that HTTP does not allow are left out.
fn headers<'a>(entries: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<HeaderMap> {
    let (mut headers, mut bytes) = (HeaderMap::new(), 0);
    for (name, value) in entries.filter(|(name, _)| is_of_call(name)) {
        bytes += name.len() + value.len();
        if bytes > MAX_BYTES {
            return None;
        }
        let Ok(name) = HeaderName::from_bytes(name) else {
            continue;
        };
        let value = match is_binary(name.as_str().as_bytes()) {
            true => HeaderValue::from_maybe_shared(Bytes::from(STANDARD_NO_PAD.encode(value))),
            false => HeaderValue::from_bytes(value),
        };
        if let Ok(mut value) = value {
            value.set_sensitive(name == header::AUTHORIZATION);
            headers.try_append(name, value).ok()?;
        }
    }
    Some(headers)
}

/// Whether it is not the stream's own.
fn is_of_call(name: &[u8]) -> bool {
    let own: [&[u8]; 4] = [b"content-type", b"te", b"connection", b"host"];
    let begins = |with: &[u8]| {
        let start = name.get(..with.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    let own = own.iter().any(|own| name.eq_ignore_ascii_case(own));
    !own && !begins(b":") && !begins(b"grpc-")
}

fn is_binary(name: &[u8]) -> bool {
    name.ends_with(b"-bin")
}

fn decoded(value: &[u8]) -> Option<Vec<u8>> {
    let end = value.iter().rposition(|byte| *byte != b'=')?;
    STANDARD_NO_PAD.decode(&value[..=end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", "1S"),
            ("x-request-id", "one"),
            ("x-request-id", "two"),
            ("trace-bin", "YWI"),
        ] {
            let name = HeaderName::from_static(name);
            headers
                .try_append(name, HeaderValue::from_static(value))
                .unwrap();
        }
        headers
    }

    #[test]
    fn what_belongs_to_a_call_survives_a_tunnel_and_nothing_else_does() {
        let mut expected = given();
        for name in ["content-type", "te", "grpc-timeout"] {
            expected.remove(name);
        }

        let meta = call_meta(&given());

        assert_eq!(meta["trace-bin"].value, ["ab"]);
        assert_eq!(call_headers(&meta), Some(expected.clone()));
        assert_eq!(answer_headers(&answer_meta(&given())), Some(expected));
    }

    #[test]
    fn bytes_that_are_no_text_survive_and_what_http_forbids_is_left_out() {
        let entry = |key: &'static [u8], value: &'static [u8]| RawEntry {
            key: Bytes::from_static(key),
            value: Some(RawValues {
                value: vec![Bytes::from_static(value)],
            }),
        };
        let meta = vec![
            entry(b"x-bin", b"\xff\x00"),
            entry(b"a b", b"x"),
            entry(b"x", b"line\nbreak"),
            entry(b":path", b"/"),
        ];

        let headers = answer_headers(&meta).unwrap();

        assert_eq!(headers.len(), 1);
        assert_eq!(answer_meta(&headers), meta[..1]);
    }

    #[test]
    fn more_than_a_call_may_have_is_refused() {
        let values = |count| Values {
            value: vec!["v".repeat(1000); count],
        };

        assert!(call_headers(&Meta::from([("x".to_owned(), values(32))])).is_some());
        assert!(call_headers(&Meta::from([("x".to_owned(), values(33))])).is_none());
    }
}
