//! Where in the cluster a request goes: path and query as they were sent.
//!
//! What is checked here, what the agent gets and what it sends come from this one value.
//! Nothing is encoded anew on the way: an agent that does so, as GitLab's agentk does, serves
//! only what means the same afterwards ([`Target::reencoding`]).

use std::borrow::Cow;

use http::{Method, StatusCode, Uri, request::Parts};
use proto::metadata::Meta;

use crate::{
    failure::Failure,
    prefix::Prefix,
    query::{self, Edit, Reencoding},
};

/// The path has an escape that is none, or does not begin with a slash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// Such as `%zz`.
    #[error("malformed path: `%` must be followed by two hexadecimal digits")]
    Escape,
    /// Such as that of `OPTIONS *`.
    #[error("malformed path: it must begin with a slash")]
    NoSlash,
    /// It is outside of what is served.
    #[error("URL does not start with expected prefix")]
    Prefix,
}

/// A request's path and query for the cluster: what was sent but for our prefix and the
/// parameters that carry credentials.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Byte for byte.
    sent: String,
    /// How much of it is the path.
    path_bytes: usize,
    /// Decoded; empty where it is not UTF-8.
    path: String,
    query: Meta,
    reencoding: Option<Reencoding>,
}

impl Target {
    /// The target of a request with this head.
    ///
    /// # Errors
    /// 405 for CONNECT, 400 for a malformed path or one that is not served.
    pub(crate) fn of_request(head: &Parts, prefix: &Prefix) -> Result<Self, Failure> {
        if head.method == Method::CONNECT {
            let message = "CONNECT is not for a Kubernetes API";
            return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        Self::of(&head.uri, prefix)
            .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("Bad request: {error}")))
    }

    /// A target that kas asks for itself.
    ///
    /// # Errors
    /// [`Malformed`], if `path` is none.
    pub(crate) fn at(path: &str) -> Result<Self, Malformed> {
        let uri = path.parse().map_err(|_| Malformed::NoSlash)?;
        Self::of(&uri, &Prefix::default())
    }

    /// The target of a request to `uri`, of which the path begins with `prefix`.
    pub(crate) fn of(uri: &Uri, prefix: &Prefix) -> Result<Self, Malformed> {
        if !uri.path().starts_with('/') {
            return Err(Malformed::NoSlash);
        }
        let path = prefix.strip(uri.path()).ok_or(Malformed::Prefix)?;
        let (decoded, of_path) = read_path(path)?;
        let raw_query = uri.query();
        let mut sent = String::with_capacity(path.len() + 1 + raw_query.map_or(0, str::len));
        sent.push_str(path);
        let (query, of_query) =
            raw_query.map_or_else(Default::default, |raw| query::read(raw, &mut sent));
        Ok(Self {
            path_bytes: path.len(),
            path: decoded.into_owned(),
            sent,
            query,
            reencoding: of_path.or(of_query),
        })
    }

    /// The path as it was sent.
    pub(crate) fn sent_path(&self) -> &str {
        &self.sent[..self.path_bytes]
    }

    /// The decoded path.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The parameters that can be decoded.
    pub(crate) fn query(&self) -> &Meta {
        &self.query
    }

    /// The decoded path, or the one that was sent where it has no text, and the parameters.
    pub(crate) fn asked(&self) -> (&str, &Meta) {
        match self.path() {
            "" => (self.sent_path(), &self.query),
            path => (path, &self.query),
        }
    }

    /// Sets a parameter that had no or another value.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        Edit {
            query: &mut self.query,
            target: &mut self.sent,
        }
        .set(name, value);
    }

    /// What encoding it anew would change.
    pub(crate) fn reencoding(&self) -> Option<Reencoding> {
        self.reencoding
    }

    /// The decoded path, the parameters, and both as they were sent. The first two are for
    /// agents that know no better, and missing where those must not serve it.
    pub(crate) fn for_agent(self) -> (String, Meta, String) {
        match self.reencoding {
            None => (self.path, self.query, self.sent),
            Some(_) => (String::new(), Meta::new(), self.sent),
        }
    }
}

fn read_path(path: &str) -> Result<(Cow<'_, str>, Option<Reencoding>), Malformed> {
    if !path.contains('%') {
        return Ok((path.into(), None));
    }
    let decoded = query::decode_path(path).ok_or(Malformed::Escape)?;
    let Ok(decoded) = String::from_utf8(decoded) else {
        return Ok((Cow::default(), Some(Reencoding::PathNotUtf8)));
    };
    let reencoding = path.split('/').find_map(of_segment);
    Ok((decoded.into(), reencoding))
}

fn of_segment(segment: &str) -> Option<Reencoding> {
    if !segment.contains('%') {
        return None;
    }
    let decoded = query::decode_path(segment)?;
    match &*decoded {
        _ if decoded.contains(&b'/') => Some(Reencoding::EscapedSlash),
        b"." | b".." => Some(Reencoding::EscapedDots),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str) -> Result<Target, Malformed> {
        Target::of(&uri.parse().unwrap(), &Prefix::default())
    }

    #[test]
    fn what_was_sent_stays_as_it_is() {
        for sent in [
            "/",
            "/api/v1/pods",
            "/api/v1/pods?",
            "/a//b/../c/./d?z=1&a&a=&=v&&x==y",
            "/a|b{c}?q=a|b&z=%7c&z=%7C",
            "/a%2Fb/%2e%2e?a=1;b=2&c=%zz&d=%FF&e=+%20",
            "/%FF?x",
        ] {
            let uri = format!("/k8s-proxy{sent}").parse().unwrap();
            let through = Target::of(&uri, &Prefix::new("/k8s-proxy/", true)).unwrap();
            assert_eq!(through.for_agent().2, sent);
        }
    }

    #[test]
    fn parameters_that_carry_credentials_are_cut_out_whole() {
        for (sent, expected) in [
            ("/a?gitlab-agent-id=1&gitlab-csrf-token=2", "/a"),
            ("/a?b=1&gitlab-agent-id=1&a=%2F", "/a?b=1&a=%2F"),
            ("/a?gitlab%2Dagent%2did=1&b", "/a?b"),
            ("/a?gitlab-csrf-token=a;b&b", "/a?b"),
            ("/a?gitlab-csrf-token=%zz&b", "/a?b"),
            ("/a?gitlab-csrf-tokens=1", "/a?gitlab-csrf-tokens=1"),
        ] {
            assert_eq!(target(sent).unwrap().for_agent().2, expected);
        }
    }

    #[test]
    fn what_encoding_anew_would_change_is_told() {
        for (sent, expected) in [
            (
                "/a%20b/%C3%A9/%25?a&b=%2F&b=|&c=+;".trim_end_matches(';'),
                None,
            ),
            ("/a/../b//c/.", None),
            ("/a%2Fb", Some(Reencoding::EscapedSlash)),
            ("/a/%2e%2E/b", Some(Reencoding::EscapedDots)),
            ("/a/.%2e", Some(Reencoding::EscapedDots)),
            ("/a/%2e%2e%2e", None),
            ("/%ff", Some(Reencoding::PathNotUtf8)),
            ("/?a=%ff", Some(Reencoding::QueryNotUtf8)),
            ("/?a=1;b=2", Some(Reencoding::Semicolon)),
            ("/?a=%4", Some(Reencoding::QueryEscape)),
        ] {
            assert_eq!(target(sent).unwrap().reencoding(), expected, "{sent}");
        }
        assert_eq!(target("/%zz").unwrap_err(), Malformed::Escape);
        assert_eq!(target("*").unwrap_err(), Malformed::NoSlash);
    }

    #[test]
    fn what_must_not_be_encoded_anew_is_told_in_one_form_only() {
        let (path, query, sent) = target("/a%2Fb?c=d").unwrap().for_agent();

        assert_eq!((path.as_str(), query.len()), ("", 0));
        assert_eq!(sent, "/a%2Fb?c=d");
    }

    #[test]
    fn a_parameter_is_set_in_both_forms() {
        let mut target = target("/a?b=1&%62=2&c=%2F").unwrap();
        target.set("b", "x/y");

        assert_eq!(query::first(target.query(), "b"), Some("x/y"));
        assert_eq!(target.for_agent().2, "/a?c=%2F&b=x%2Fy");
    }
}
