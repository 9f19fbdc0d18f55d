//! Paths and queries as Go's net/url understands them, since agentk does.

use proto::metadata::Meta;

/// Parameters that carry credentials; they stay here.
const OURS: [&str; 2] = [
    super::credentials::AGENT_ID_PARAMETER,
    super::credentials::CSRF_PARAMETER,
];

/// All values of one parameter, in order.
pub(super) fn values(raw: &str, name: &str) -> Vec<String> {
    pairs(raw)
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value)
        .collect()
}

/// The parameters for the agent: all but those that carry credentials.
pub(super) fn forwarded(raw: &str) -> Meta {
    let mut map = Meta::new();
    for (key, value) in pairs(raw) {
        if !OURS.contains(&key.as_str()) {
            map.entry(key).or_default().value.push(value);
        }
    }
    map
}

/// The first value of a parameter.
pub(super) fn first<'a>(query: &'a Meta, name: &str) -> Option<&'a str> {
    query.get(name)?.value.first().map(String::as_str)
}

/// Whether a parameter is one of the words that Kubernetes reads as true.
pub(super) fn is_true(query: &Meta, name: &str) -> bool {
    matches!(
        first(query, name),
        Some("true" | "1" | "t" | "T" | "TRUE" | "True")
    )
}

/// Decodes a path; `None` when it has a bad escape or is not UTF-8.
pub(super) fn decode_path(path: &str) -> Option<String> {
    if !path.contains('%') {
        return Some(path.to_owned());
    }
    String::from_utf8(unescape(path, false)?).ok()
}

/// Decodes a component of a query: `+` is a space. `None` for a bad escape.
pub(super) fn decode_component(component: &str) -> Option<Vec<u8>> {
    unescape(component, true)
}

/// Malformed pairs vanish, as they do in Go.
fn pairs(raw: &str) -> impl Iterator<Item = (String, String)> + '_ {
    raw.split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((text(key)?, text(value)?))
        })
}

fn text(component: &str) -> Option<String> {
    let bytes = decode_component(component)?;
    // The wire's strings are UTF-8.
    Some(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

fn unescape(escaped: &str, plus_is_space: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    Some(out)
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_go_reads_them() {
        let read = |raw| {
            let mut all: Vec<_> = forwarded(raw)
                .into_iter()
                .map(|(key, values)| (key, values.value))
                .collect();
            all.sort();
            all
        };
        let pair = |key: &str, values: &[&str]| {
            (
                key.to_owned(),
                values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>(),
            )
        };

        assert_eq!(read(""), []);
        assert_eq!(
            read("a=1&a=2&b"),
            [pair("a", &["1", "2"]), pair("b", &[""])]
        );
        assert_eq!(read("a=x+y%2Bz"), [pair("a", &["x y+z"])]);
        assert_eq!(read("a=%zz&b=1;c=2&d=%4"), []);
        assert_eq!(read("=v&&x==y"), [pair("", &["v"]), pair("x", &["=y"])]);
        assert_eq!(
            read("gitlab-agent-id=1&gitlab-csrf-token=2&k=v"),
            [pair("k", &["v"])]
        );
        assert_eq!(read("a=%ff"), [pair("a", &["\u{fffd}"])]);
    }

    #[test]
    fn paths_are_decoded_and_keep_their_plus() {
        assert_eq!(decode_path("/api/v1").as_deref(), Some("/api/v1"));
        assert_eq!(decode_path("/a+b%20c%2Fd").as_deref(), Some("/a+b c/d"));
        assert_eq!(decode_path("/%e4%bd%a0").as_deref(), Some("/你"));
        assert_eq!(decode_path("/%"), None);
        assert_eq!(decode_path("/%ff"), None);
    }
}
