//! What this build is.

/// The version of the crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, where the build knew it.
pub const COMMIT: &str = match option_env!("KAS_COMMIT") {
    Some(commit) => commit,
    None => "00000000",
};

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
