//! gRPC metadata on the wire (`map<string, Values>`) and as HTTP headers.
//!
//! Values of `-bin` keys are raw bytes in the map and base64 in headers
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::agent::prototool::{RawEntry, RawValues, Values};

/// A multimap as the wire carries it.
pub type Meta = HashMap<String, Values>;

/// A `RequestInfo` of these parts, encoded without copies of them.
#[must_use]
pub fn request_info(method: &str, meta: &Meta) -> Bytes {
    use prost::encoding::{encode_key, encode_varint, hash_map, message, string};
    const METHOD_NAME: u32 = 1;
    const META: u32 = 2;
    let length = hash_map::encoded_len(string::encoded_len, message::encoded_len, META, meta);
    let mut encoded = BytesMut::with_capacity(length + method.len() + 12);
    if !method.is_empty() {
        encode_key(
            METHOD_NAME,
            prost::encoding::WireType::LengthDelimited,
            &mut encoded,
        );
        encode_varint(method.len() as u64, &mut encoded);
        encoded.extend_from_slice(method.as_bytes());
    }
    hash_map::encode(
        string::encode,
        string::encoded_len,
        message::encode,
        message::encoded_len,
        META,
        meta,
        &mut encoded,
    );
    encoded.freeze()
}

/// The same as an agent sends it with its answer: values need not be texts.
pub type RawMeta = Vec<RawEntry>;

/// A multimap of texts as one of bytes, in the order of its keys.
#[must_use]
pub fn raw(meta: Meta) -> RawMeta {
    let entries = meta.into_iter().map(|(key, Values { value })| RawEntry {
        key: key.into(),
        value: Some(RawValues {
            value: value.into_iter().map(Into::into).collect(),
        }),
    });
    let mut entries: RawMeta = entries.collect();
    entries.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    entries
}

/// An entry with these values.
#[must_use]
pub fn entry(
    key: impl Into<Bytes>,
    values: impl IntoIterator<Item = impl Into<Bytes>>,
) -> RawEntry {
    RawEntry {
        key: key.into(),
        value: Some(RawValues {
            value: values.into_iter().map(Into::into).collect(),
        }),
    }
}

/// The values of a key, which must be spelled so.
pub fn values<'a>(meta: &'a [RawEntry], key: &str) -> impl Iterator<Item = &'a [u8]> {
    let entries = meta.iter().filter(move |it| it.key == key);
    let values = entries.filter_map(|it| it.value.as_ref());
    values.flat_map(|it| it.value.iter().map(|value| &value[..]))
}

/// HTTP headers for the head of a request or an answer, with the names as `name` spells them.
///
/// Values that are not UTF-8 are carried with their bytes read as Latin-1: whoever reads may take them for texts.
#[must_use]
pub fn raw_from_headers(headers: &HeaderMap, name: impl Fn(&HeaderName) -> String) -> RawMeta {
    raw_from_some_headers(headers, name, |_| true)
}

/// The same of those headers whose names `passes` lets through.
#[must_use]
pub fn raw_from_some_headers(
    headers: &HeaderMap,
    name: impl Fn(&HeaderName) -> String,
    passes: impl Fn(&HeaderName) -> bool,
) -> RawMeta {
    let mut entries = RawMeta::with_capacity(headers.keys_len());
    // The values of a name come one behind the other, all with the same reference to it.
    let mut last: Option<&HeaderName> = None;
    let mut is_passing = false;
    for (key, value) in headers {
        if last.is_some_and(|it| std::ptr::eq(it, key)) {
            if is_passing && let Some(values) = entries.last_mut().and_then(|it| it.value.as_mut())
            {
                values.value.push(raw_text(value));
            }
            continue;
        }
        last = Some(key);
        is_passing = passes(key);
        if is_passing {
            entries.push(entry(name(key), [raw_text(value)]));
        }
    }
    entries
}

/// Turns HTTP headers into the wire's map, with the names as `name` spells them.
///
/// Values that are not UTF-8 are carried with their bytes read as Latin-1,
/// since the wire's strings are UTF-8.
pub fn from_headers(headers: &HeaderMap, name: impl Fn(&HeaderName) -> String) -> Meta {
    let mut map = Meta::with_capacity(headers.keys_len());
    for key in headers.keys() {
        let value = headers.get_all(key).iter().map(text).collect();
        map.insert(name(key), Values { value });
    }
    map
}

/// The head of a request or an answer as HTTP headers; names and values that HTTP does
/// not allow are dropped, and so is what a map of headers has no room for.
#[must_use]
pub fn to_headers(meta: RawMeta) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for RawEntry { key, value } in meta {
        let Ok(name) = HeaderName::from_bytes(&key) else {
            continue;
        };
        for value in value.unwrap_or_default().value {
            if let Ok(value) = HeaderValue::from_maybe_shared(value) {
                // Beyond 24,576 names, or 32,768 lines.
                let _ = headers.try_append(&name, value);
            }
        }
    }
    headers
}

/// Spells a header name as Go does: `content-type` becomes `Content-Type`.
///
/// agentk looks names up in this form (net/textproto.CanonicalMIMEHeaderKey).
#[must_use]
pub fn canonical(name: &HeaderName) -> String {
    let mut upper = true;
    let mut spelled = name.as_str().to_owned().into_bytes();
    for byte in &mut spelled {
        if upper {
            byte.make_ascii_uppercase();
        }
        upper = *byte == b'-';
    }
    // The case of ASCII letters does not make a text none.
    String::from_utf8(spelled).unwrap_or_default()
}

fn text(value: &HeaderValue) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => latin_1(value),
    }
}

fn raw_text(value: &HeaderValue) -> Bytes {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Bytes::copy_from_slice(text.as_bytes()),
        Err(_) => latin_1(value).into(),
    }
}

fn latin_1(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|b| char::from(*b)).collect()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn an_answers_metadata_may_hold_any_bytes_and_is_a_map_on_the_wire() {
        use prost::Message as _;

        use crate::agent::reverse_tunnel::rpc::{
            ConnectRequest, Header, RequestInfo, connect_request::Msg,
        };
        let values = Values {
            value: vec!["a".into(), "b".into()],
        };
        let meta = Meta::from([("x".to_owned(), values)]);
        // A map in field 2 here, and in field 1 there.
        let map = RequestInfo {
            meta: meta.clone(),
            ..RequestInfo::default()
        };
        let mut encoded = map.encode_to_vec();
        encoded[0] = 1 << 3 | 2;
        assert_eq!(Header::decode(&encoded[..]).unwrap().meta, raw(meta));

        let entry = RawEntry {
            key: "x-bin".into(),
            value: Some(RawValues {
                value: vec![b"\xff\x00".to_vec().into()],
            }),
        };
        let header = Header { meta: vec![entry] };
        let message = ConnectRequest {
            msg: Some(Msg::Header(header)),
        };
        let read = ConnectRequest::decode(&message.encode_to_vec()[..]);
        assert_eq!(read, Ok(message));
    }

    #[test]
    fn names_are_spelled_as_go_spells_them() {
        let spelled = |name| canonical(&HeaderName::from_static(name));
        assert_eq!(
            spelled("x-stream-protocol-version"),
            "X-Stream-Protocol-Version"
        );
        assert_eq!(
            spelled("impersonate-extra-a.b%2fc"),
            "Impersonate-Extra-A.b%2fc"
        );
    }

    #[test]
    fn all_values_of_a_name_survive_both_ways() {
        let mut headers = HeaderMap::new();
        headers
            .try_append("accept", HeaderValue::from_static("a"))
            .unwrap();
        headers
            .try_append("accept", HeaderValue::from_static("b"))
            .unwrap();

        let back = to_headers(raw_from_headers(&headers, canonical));

        assert_eq!(back, headers);
    }

    #[test]
    fn any_number_of_names_is_harmless() {
        let name = |number| entry(format!("x-{number}"), ["1"]);

        let headers = to_headers((0..50_000).map(name).collect());

        assert!(headers.len() > 20_000);
    }

    #[test]
    fn what_http_does_not_allow_is_dropped() {
        let bad = vec![
            entry("a b", ["x"]),
            entry(&b"\xff"[..], ["x"]),
            entry("good", ["line\nbreak", "ok"]),
        ];
        let headers = to_headers(bad);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers["good"], "ok");
    }

    #[test]
    fn values_that_are_no_text_are_read_as_they_are_and_written_as_texts() {
        let headers = to_headers(vec![entry("x-name", [&b"caf\xe9"[..]])]);
        assert_eq!(headers["x-name"].as_bytes(), b"caf\xe9");

        let written = raw_from_headers(&headers, canonical);
        let written: Vec<_> = values(&written, "X-Name").collect();
        assert_eq!(written, ["café".as_bytes()]);
    }

    #[test]
    fn a_request_info_is_encoded_as_the_message_is() {
        use crate::agent::reverse_tunnel::rpc::RequestInfo;
        let values = |values: &[&str]| Values {
            value: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        let one = [("x-request-id".to_owned(), values(&["a", ""]))];
        for (method, meta) in [
            ("/a.B/C", Meta::from(one.clone())),
            ("", Meta::from(one)),
            ("/a.B/C", Meta::from([(String::new(), Values::default())])),
            ("", Meta::new()),
        ] {
            let message = RequestInfo {
                method_name: method.to_owned(),
                meta: meta.clone(),
            };
            assert_eq!(request_info(method, &meta), message.encode_to_vec());
        }
    }
}
