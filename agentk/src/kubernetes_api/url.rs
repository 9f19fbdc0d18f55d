//! Path and query as they are sent: as kas got them, or encoded as Go's net/url does it. Pure.

use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use proto::metadata::Meta;

/// What a path may hold as it is.
const PATH: &AsciiSet = &unreserved()
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');
/// What a query's names and values may hold as they are. Spaces become `+`.
const QUERY: &AsciiSet = &unreserved().remove(b' ');

const fn unreserved() -> AsciiSet {
    NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
}

/// Why nothing can be sent to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadTarget {
    /// It would be something else.
    #[error("a request's path must begin with a slash")]
    NoSlash,
    /// Both are there and differ.
    #[error("the path and the target of a request differ")]
    OtherPath,
    /// It would not arrive as it is.
    #[error("a request's target has a character that cannot be sent")]
    Unsendable,
}

/// What kas got, which it wants to be sent as it is; `path` is what it decodes to, or empty.
pub(super) fn verbatim(target: String, path: &str) -> Result<String, BadTarget> {
    if !target.starts_with('/') {
        return Err(BadTarget::NoSlash);
    }
    // The parser drops what follows a `#`.
    let parsed = PathAndQuery::try_from(target.as_str()).map_err(|_| BadTarget::Unsendable)?;
    if parsed.as_str() != target {
        return Err(BadTarget::Unsendable);
    }
    let is_same = path.is_empty()
        || path == parsed.path()
        || percent_decode_str(parsed.path()).eq(path.bytes());
    is_same.then_some(target).ok_or(BadTarget::OtherPath)
}

/// Encodes both; the query is sorted by name.
pub(super) fn encoded(path: &str, query: Meta) -> Result<String, BadTarget> {
    if !path.starts_with('/') {
        return Err(BadTarget::NoSlash);
    }
    let mut out = utf8_percent_encode(path, PATH).to_string();
    let mut pairs: Vec<_> = query.into_iter().collect();
    pairs.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut separator = '?';
    for (name, values) in pairs {
        for value in values.value {
            out.push(separator);
            push(&mut out, &name);
            out.push('=');
            push(&mut out, &value);
            separator = '&';
        }
    }
    Ok(out)
}

fn push(out: &mut String, text: &str) {
    for part in utf8_percent_encode(text, QUERY) {
        out.extend(part.chars().map(|c| if c == ' ' { '+' } else { c }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::agent::prototool::Values;

    fn encode(path: &str, query: &[(&str, &[&str])]) -> String {
        let query = query
            .iter()
            .map(|(name, values)| {
                let value = values.iter().map(|it| (*it).to_owned()).collect();
                ((*name).to_owned(), Values { value })
            })
            .collect();
        encoded(path, query).unwrap()
    }

    #[test]
    fn paths_keep_what_go_keeps() {
        assert_eq!(encode("/api/v1/$&+,:;=@-_.~", &[]), "/api/v1/$&+,:;=@-_.~");
        assert_eq!(encode("/a b/c?d#e%f", &[]), "/a%20b/c%3Fd%23e%25f");
        assert_eq!(encode("/é", &[]), "/%C3%A9");
    }

    #[test]
    fn queries_are_sorted_and_encoded() {
        let query: &[(&str, &[&str])] = &[
            ("watch", &["true"]),
            ("labelSelector", &["a=b,c in (d)"]),
            ("command", &["ls", "-l +x"]),
        ];

        assert_eq!(
            encode("/x", query),
            "/x?command=ls&command=-l+%2Bx&labelSelector=a%3Db%2Cc+in+%28d%29&watch=true"
        );
    }
}
