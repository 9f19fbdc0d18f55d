//! Paths and queries encoded as Go's net/url does it. Pure.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
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

/// Encodes both; the query is sorted by name.
pub(super) fn path_and_query(path: &str, query: Meta) -> String {
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
    out
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
        path_and_query(path, query)
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
