//! Where a module's request goes: below its own name, and nowhere else.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What all paths of modules begin with.
const PREFIX: &str = "/api/v4/internal/kubernetes/modules/";
/// What needs no escape anywhere in a URL (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const MODULE_BYTES_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 2048;
const QUERY_BYTES_MAX: usize = 8 << 10;

/// A module's name, a path below it, and a query; parsed once, and put together here only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModulePath {
    module: String,
    /// At least one; the last one is empty where the path ends with a slash.
    segments: Vec<String>,
    query: Vec<(String, String)>,
}

/// Why a path is none of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The name is empty, too long, or has a character that names have not.
    #[error("a module's name consists of 1 to {MODULE_BYTES_MAX} letters, digits, `_` and `-`")]
    Module,
    /// It does not begin with a slash.
    #[error("a module's path must begin with a slash")]
    NoSlash,
    /// It has a segment that leads elsewhere, or that others may understand otherwise.
    #[error(
        "a module's path must not have empty segments, `.`, `..`, `%`, `\\` or control characters"
    )]
    Segment,
    /// It is too long.
    #[error("a module's path has {PATH_BYTES_MAX} bytes at most, its query {QUERY_BYTES_MAX}")]
    TooLong,
}

impl ModulePath {
    /// Reads a module's name, the path it asks for, not escaped, and the parameters of the query.
    ///
    /// # Errors
    /// [`PathError`] when it is not surely below the module's name.
    pub fn parse(
        module: &str,
        path: &str,
        query: Vec<(String, String)>,
    ) -> Result<Self, PathError> {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if module.is_empty() || module.len() > MODULE_BYTES_MAX || !module.bytes().all(named) {
            return Err(PathError::Module);
        }
        let query_bytes: usize = query
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if path.len() > PATH_BYTES_MAX || query_bytes > QUERY_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        let path = path.strip_prefix('/').ok_or(PathError::NoSlash)?;
        let segments: Vec<_> = path.split('/').map(str::to_owned).collect();
        let last = segments.len() - 1;
        let is_good = |(at, segment): (usize, &String)| {
            let odd = |c: char| c.is_control() || matches!(c, '%' | '\\');
            let dots = matches!(segment.as_str(), "." | "..");
            !(dots || segment.contains(odd) || (segment.is_empty() && at != last))
        };
        if !segments.iter().enumerate().all(is_good) {
            return Err(PathError::Segment);
        }
        Ok(Self {
            module: module.to_owned(),
            segments,
            query,
        })
    }

    /// The module's name.
    #[must_use]
    pub fn module(&self) -> &str {
        &self.module
    }

    /// The path and query of the URL.
    #[must_use]
    pub(in super::super) fn target(&self) -> String {
        let mut target = format!("{PREFIX}{}", self.module);
        for segment in &self.segments {
            // Writing to a string does not fail.
            let _ = write!(target, "/{}", escaped(segment));
        }
        for (number, (key, value)) in self.query.iter().enumerate() {
            let separator = if number == 0 { '?' } else { '&' };
            let _ = write!(target, "{separator}{}={}", escaped(key), escaped(value));
        }
        target
    }
}

fn escaped(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, ESCAPED)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(module: &str, path: &str) -> Result<String, PathError> {
        ModulePath::parse(module, path, Vec::new()).map(|it| it.target())
    }

    #[test]
    fn a_path_is_below_its_modules_name() {
        for (path, url) in [
            ("/", "/"),
            ("/policies_configuration", "/policies_configuration"),
            ("/a/b/", "/a/b/"),
            ("/ä b?c#d;e", "/%C3%A4%20b%3Fc%23d%3Be"),
            ("/...", "/..."),
        ] {
            let expected = format!("/api/v4/internal/kubernetes/modules/mod_1{url}");
            assert_eq!(target("mod_1", path), Ok(expected));
        }
    }

    #[test]
    fn what_may_lead_elsewhere_is_refused() {
        for path in [
            "/..",
            "/../agent_info",
            "/a/../../agent_info",
            "/./a",
            "//a",
            "/a//b",
            "/%2e%2e/agent_info",
            "/..%2fagent_info",
            "/a\\..\\..",
            "/a\r\nb",
            "/\u{0}",
        ] {
            assert_eq!(target("m", path), Err(PathError::Segment), "{path:?}");
        }
        assert_eq!(target("m", "a"), Err(PathError::NoSlash));
        assert_eq!(target("m", ""), Err(PathError::NoSlash));
        let long = "/".to_owned() + &"a".repeat(PATH_BYTES_MAX);
        assert_eq!(target("m", &long), Err(PathError::TooLong));
        for module in ["", "..", "a/b", "a%2fb", "a b", "a?", &"a".repeat(65)] {
            assert_eq!(target(module, "/a"), Err(PathError::Module), "{module:?}");
        }
    }

    #[test]
    fn a_query_cannot_become_a_path_or_another_parameter() {
        let query = vec![
            ("a&b".to_owned(), "c=d#e".to_owned()),
            ("f".to_owned(), String::new()),
        ];

        let path = ModulePath::parse("m", "/", query).unwrap();

        assert!(
            path.target().ends_with("/modules/m/?a%26b=c%3Dd%23e&f="),
            "{}",
            path.target()
        );
    }

    proptest! {
        #[test]
        fn no_text_leaves_the_module(module in ".{0,20}", path in ".{0,60}", key in ".{0,10}") {
            let query = vec![(key.clone(), key)];
            let Ok(parsed) = ModulePath::parse(&module, &path, query) else { return Ok(()) };
            let uri: http::Uri = parsed.target().parse().unwrap();

            let below = uri.path().strip_prefix(PREFIX).unwrap().strip_prefix(&module).unwrap();

            prop_assert!(below.starts_with('/'));
            prop_assert!(!below.split('/').any(|it| matches!(it, "." | "..")));
        }
    }
}
