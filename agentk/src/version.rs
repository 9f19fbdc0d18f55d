//! What this build calls itself.

use http::HeaderValue;

macro_rules! version {
    () => {
        concat!("v16.5.0+kas.", env!("CARGO_PKG_VERSION"))
    };
}

/// Name, version and commit, behind a text.
macro_rules! named {
    ($before:literal) => {
        concat!(
            $before,
            "gitlab-agent/",
            version!(),
            "/",
            env!("KAS_COMMIT")
        )
    };
}

/// GitLab's version that this agent is like, and our own. kas decides by it
/// what an agent can do.
pub const VERSION: &str = version!();

/// The commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("KAS_COMMIT");

/// What `--version` says after the name.
pub const LONG: &str = concat!(version!(), ", commit ", env!("KAS_COMMIT"));

/// `User-Agent` of what the agent asks for, where it was not asked with one, and `Server` of what it answers.
pub(crate) const USER_AGENT: HeaderValue = HeaderValue::from_static(named!(""));
/// `Via` of a request that came over gRPC.
pub(crate) const VIA_GRPC: HeaderValue = HeaderValue::from_static(named!("gRPC/1.0 "));
/// `Via` of an answer in HTTP/1.0.
pub(crate) const VIA_HTTP_10: HeaderValue = HeaderValue::from_static(named!("1.0 "));
/// `Via` of an answer in HTTP/1.1.
pub(crate) const VIA_HTTP_11: HeaderValue = HeaderValue::from_static(named!("1.1 "));
/// `Via` of an answer in HTTP/2.
pub(crate) const VIA_HTTP_2: HeaderValue = HeaderValue::from_static(named!("2.0 "));

/// Name, version and commit.
#[must_use]
pub fn user_agent() -> String {
    named!("").to_owned()
}
