//! Where the Kubernetes API begins at the users' port.

use std::sync::Arc;

use crate::route::UserRequest;

/// What its paths begin with, such as `/k8s-proxy/`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prefix {
    /// Without a slash at its end.
    base: Arc<str>,
    required: bool,
}

impl Prefix {
    /// This one. Where it is not `required`, paths that do not begin with it are those of the cluster.
    pub(crate) fn new(prefix: &str, required: bool) -> Self {
        Self {
            base: prefix.strip_suffix('/').unwrap_or(prefix).into(),
            required,
        }
    }

    /// It, without a slash at its end.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The path for the cluster; none where this is no path of the API.
    pub(crate) fn strip<'p>(&self, path: &'p str) -> Option<&'p str> {
        match behind(path, &self.base) {
            Some("") => Some("/"),
            Some(rest) if rest.starts_with('/') => Some(rest),
            Some(_) | None => (!self.required).then_some(path),
        }
    }

    /// Whether a request is for this path below the prefix, which no API has.
    pub(crate) fn leads_to(&self, path: &str, request: &UserRequest) -> bool {
        self.strip(request.head.uri.path()) == Some(path)
    }
}

/// What follows `base`, whose characters may be escaped.
fn behind<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    if let Some(rest) = path.strip_prefix(base) {
        return Some(rest);
    }
    let mut rest = path;
    for byte in base.bytes() {
        rest = match rest.strip_prefix('%') {
            Some(escape) => {
                let digits = escape.get(..2)?;
                (u8::from_str_radix(digits, 16).ok()? == byte).then_some(&escape[2..])?
            }
            None if byte.is_ascii() => rest.strip_prefix(char::from(byte))?,
            None => return None,
        };
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_cut_and_may_be_escaped_and_outside_of_it_is_nothing_or_the_cluster() {
        let table = [
            ("/k8s-proxy/api/v1", "/k8s-proxy/", Some("/api/v1")),
            ("/k8s-proxy/", "/k8s-proxy/", Some("/")),
            ("/k8s-proxy", "/k8s-proxy/", Some("/")),
            ("/k8s%2dproxy/a%2Fb", "/k8s-proxy/", Some("/a%2Fb")),
            ("/k8s-proxyx/api", "/k8s-proxy/", None),
            ("/k8s-proxy%2Fapi", "/k8s-proxy/", None),
            ("/k8s%", "/k8s-proxy/", None),
            ("/api/v1", "/k8s-proxy/", None),
            ("/api/v1", "/", Some("/api/v1")),
            ("/", "/", Some("/")),
        ];
        for (path, prefix, expected) in table {
            assert_eq!(Prefix::new(prefix, true).strip(path), expected);
            let lenient = Prefix::new(prefix, false);
            assert_eq!(lenient.strip(path), Some(expected.unwrap_or(path)));
        }
    }
}
