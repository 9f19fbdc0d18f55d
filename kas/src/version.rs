//! The version of this build.

use std::sync::LazyLock;

/// The version of the crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("KAS_COMMIT");

/// What `--version` says after the name.
pub static LONG: LazyLock<String> = LazyLock::new(|| format!("{VERSION}, commit {COMMIT}"));

/// What HTTP answers of kas carry in `Server`, and its entry in `Via`.
#[must_use]
pub fn server() -> String {
    format!("gitlab-kas/v{VERSION}/{COMMIT}")
}

/// The same as a header value.
#[must_use]
pub fn server_header() -> http::HeaderValue {
    http::HeaderValue::from_str(&server()).expect("versions and commits are plain text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_names_the_commit() {
        assert!(!COMMIT.is_empty());
        assert_eq!(*LONG, format!("{VERSION}, commit {COMMIT}"));
    }
}
