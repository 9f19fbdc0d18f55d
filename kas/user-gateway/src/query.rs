//! Paths and queries as Go's net/url understands them, since agentk does.

use proto::metadata::Meta;

/// The parameter that names the agent of a browser's session.
pub(crate) const AGENT_ID_PARAMETER: &str = "gitlab-agent-id";
/// The parameter with the CSRF token of a browser's session.
pub(crate) const CSRF_PARAMETER: &str = "gitlab-csrf-token";
/// Parameters that carry credentials; they are not for the cluster.
const CREDENTIALS: [&str; 2] = [AGENT_ID_PARAMETER, CSRF_PARAMETER];

/// What an agent that takes path and query apart and encodes them again would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Reencoding {
    /// `%2F` in the path.
    #[error("`%2F` in the path would become a slash")]
    EscapedSlash,
    /// `%2e` as all of a segment, or two of them.
    #[error("an escaped dot segment of the path would become a real one")]
    EscapedDots,
    /// Bytes such as `%FF` in the path.
    #[error("bytes of the path that are not UTF-8 would be lost")]
    PathNotUtf8,
    /// Bytes such as `%FF` in the query.
    #[error("bytes of the query that are not UTF-8 would be replaced")]
    QueryNotUtf8,
    /// `;` in the query, which Go takes for an error.
    #[error("a parameter with a raw `;` in it would be left out")]
    Semicolon,
    /// `%zz` in the query.
    #[error("a parameter with a malformed escape in it would be left out")]
    QueryEscape,
}

/// All values of one parameter, in order.
pub(crate) fn values(raw: &str, name: &str) -> Vec<String> {
    pairs(raw)
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value)
        .collect()
}

/// Reads the parameters for the cluster, and appends them to `target` as they were sent: all but
/// those that carry credentials, whatever their values look like. Says what encoding them anew
/// would change.
pub(crate) fn read(raw: &str, target: &mut String) -> (Meta, Option<Reencoding>) {
    let (mut map, mut reencoding) = (Meta::new(), None);
    let mut separator = '?';
    for pair in raw.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if carries_credentials(name) {
            continue;
        }
        target.push(separator);
        target.push_str(pair);
        separator = '&';
        if pair.is_empty() {
            continue;
        }
        match decode(pair, name, value) {
            Ok((name, value)) => map.entry(name).or_default().value.push(value),
            Err(change) => reencoding = reencoding.or(Some(change)),
        }
    }
    (map, reencoding)
}

/// The parameters as they were sent, without those that carry credentials and without this one.
pub(crate) fn without(raw: &str, name: &str) -> String {
    let others = raw.split('&').filter(|pair| {
        let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
        !carries_credentials(key) && decode_component(key).as_deref() != Some(name.as_bytes())
    });
    others.collect::<Vec<_>>().join("&")
}

fn carries_credentials(name: &str) -> bool {
    if !name.contains('%') {
        return CREDENTIALS.contains(&name);
    }
    let name = decode_component(name);
    CREDENTIALS
        .iter()
        .any(|it| name.as_deref() == Some(it.as_bytes()))
}

fn decode(pair: &str, name: &str, value: &str) -> Result<(String, String), Reencoding> {
    if pair.contains(';') {
        return Err(Reencoding::Semicolon);
    }
    let text = |component: &str| {
        let bytes = decode_component(component).ok_or(Reencoding::QueryEscape)?;
        String::from_utf8(bytes).map_err(|_| Reencoding::QueryNotUtf8)
    };
    Ok((text(name)?, text(value)?))
}

/// The parameters for the cluster.
#[cfg(test)]
pub(crate) fn forwarded(raw: &str) -> Meta {
    read(raw, &mut String::new()).0
}

/// Changes parameters in both forms of a query.
#[derive(Debug)]
pub(crate) struct Edit<'a> {
    /// As a map.
    pub(crate) query: &'a mut Meta,
    /// Path and query as they are sent.
    pub(crate) target: &'a mut String,
}

impl Edit<'_> {
    /// Gives the parameter this value and no other.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.query.entry(name.to_owned()).or_default().value = vec![value.to_owned()];
        let separator = if self.target.contains('?') { '&' } else { '?' };
        self.target.push(separator);
        self.target.push_str(name);
        self.target.push('=');
        escape(value, self.target);
    }

    /// Takes the parameter out.
    pub(crate) fn remove(&mut self, name: &str) {
        self.query.remove(name);
        let Some((path, raw)) = self.target.split_once('?') else {
            return;
        };
        let is_other = |pair: &&str| {
            let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
            decode_component(key).as_deref() != Some(name.as_bytes())
        };
        let others: Vec<_> = raw.split('&').filter(is_other).collect();
        *self.target = match others[..] {
            [] => path.to_owned(),
            _ => format!("{path}?{}", others.join("&")),
        };
    }
}

fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.extend(format!("%{byte:02X}").chars()),
        }
    }
}

/// The first value of a parameter.
pub(crate) fn first<'a>(query: &'a Meta, name: &str) -> Option<&'a str> {
    query.get(name)?.value.first().map(String::as_str)
}

/// Whether a parameter is one of the words that Kubernetes reads as true.
pub(crate) fn is_true(query: &Meta, name: &str) -> bool {
    matches!(
        first(query, name),
        Some("true" | "1" | "t" | "T" | "TRUE" | "True")
    )
}

/// Decodes a path; `None` when it has a bad escape.
pub(crate) fn decode_path(path: &str) -> Option<Vec<u8>> {
    unescape(path, false)
}

/// Decodes a component of a query: `+` is a space. `None` for a bad escape.
pub(crate) fn decode_component(component: &str) -> Option<Vec<u8>> {
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
        assert_eq!(read("a=%ff"), []);
        assert_eq!(values("a=%ff", "a"), ["\u{fffd}"]);
    }

    #[test]
    fn paths_are_decoded_and_keep_their_plus() {
        let decode = |path| decode_path(path).map(|it| String::from_utf8(it).unwrap());
        assert_eq!(decode("/api/v1").as_deref(), Some("/api/v1"));
        assert_eq!(decode("/a+b%20c%2Fd").as_deref(), Some("/a+b c/d"));
        assert_eq!(decode("/%e4%bd%a0").as_deref(), Some("/你"));
        assert_eq!(decode("/%"), None);
    }
}
