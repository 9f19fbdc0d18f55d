//! Headers that belong to one hop, to us, or to the other side.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::metadata::{self, RawMeta};

use crate::websocket_tokens;

/// The header that names the agent of a browser's session.
pub(crate) const AGENT_ID: &str = "gitlab-agent-id";
/// The header with the CSRF token of a browser's session.
pub(crate) const CSRF: &str = "x-csrf-token";

/// The headers of a request as the agent gets them.
pub(crate) fn of_request(mut headers: HeaderMap, via: &HeaderValue) -> RawMeta {
    websocket_tokens::hide(&mut headers);
    let named = named_in_connection(&headers);
    let upgrades = headers.contains_key(header::UPGRADE);
    if named.contains(&header::VIA) {
        headers.remove(header::VIA);
    }
    // What passed the limits of a request's head leaves room for one more line.
    let _ = headers.try_append(header::VIA, via.clone());
    // In one pass: each header that is removed from a map costs more than being passed over.
    let mut meta = metadata::raw_from_some_headers(&headers, metadata::canonical, |name| {
        let is_named = *name != header::VIA && named.contains(name);
        (upgrades && *name == header::UPGRADE)
            || !(is_hop_by_hop(name) || is_for_us(name) || is_named)
    });
    if upgrades {
        meta.push(metadata::entry("Connection", ["upgrade"]));
    }
    meta
}

/// Whether a header of a request is for kas and does not go on.
pub(crate) fn is_for_us(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "authorization" | "cookie" | AGENT_ID | CSRF | "host"
    )
}

/// Whether a header speaks of one connection only.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "proxy-connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// The length that the headers announce, if they do so in an orderly way.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    value.parse().ok()
}

/// Bytes that headers take on the wire, about.
pub(crate) fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

fn named_in_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use proto::agent::prototool::RawEntry;

    use super::*;

    const VIA: HeaderValue = HeaderValue::from_static("gRPC/1.0 kas/1");

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.try_append(*name, HeaderValue::from_static(value))
                .unwrap();
        }
        map
    }

    fn sorted(meta: RawMeta) -> Vec<(String, Vec<String>)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let values = |it: &RawEntry| {
            metadata::values(std::slice::from_ref(it), &text(&it.key))
                .map(text)
                .collect()
        };
        let mut all: Vec<_> = meta.iter().map(|it| (text(&it.key), values(it))).collect();
        all.sort();
        all
    }

    fn pair(name: &str, values: &[&str]) -> (String, Vec<String>) {
        (
            name.to_owned(),
            values.iter().map(|v| (*v).to_owned()).collect(),
        )
    }

    #[test]
    fn a_request_loses_what_is_not_for_the_cluster() {
        let headers = map(&[
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("host", "kas"),
            ("gitlab-agent-id", "1"),
            ("x-csrf-token", "t"),
            ("connection", "keep-alive, X-Hop"),
            ("keep-alive", "1"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("accept", "a"),
            ("accept", "b"),
            ("impersonate-user", "joe"),
            ("via", "1.1 lb"),
        ]);

        assert_eq!(
            sorted(of_request(headers, &VIA)),
            [
                pair("Accept", &["a", "b"]),
                pair("Impersonate-User", &["joe"]),
                pair("Via", &["1.1 lb", "gRPC/1.0 kas/1"]),
            ]
        );
    }

    #[test]
    fn an_upgrade_keeps_only_that_of_its_connection() {
        let headers = map(&[
            ("connection", "Upgrade, X-Hop"),
            ("x-hop", "1"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ]);

        assert_eq!(
            sorted(of_request(headers, &VIA)),
            [
                pair("Connection", &["upgrade"]),
                pair("Upgrade", &["SPDY/3.1"]),
                pair("Via", &["gRPC/1.0 kas/1"]),
                pair("X-Stream-Protocol-Version", &["v4.channel.k8s.io"]),
            ]
        );
    }
}
