//! What this build calls itself.

/// GitLab's version that this agent is like, and our own. kas decides by it
/// what an agent can do.
pub const VERSION: &str = concat!("v16.5.0+kas.", env!("CARGO_PKG_VERSION"));

/// The commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("KAS_COMMIT");

/// What `--version` says after the name.
pub const LONG: &str = concat!(
    "v16.5.0+kas.",
    env!("CARGO_PKG_VERSION"),
    ", commit ",
    env!("KAS_COMMIT")
);

/// Name, version and commit, as in `User-Agent` and `Via`.
#[must_use]
pub fn user_agent() -> String {
    format!("gitlab-agent/{VERSION}/{COMMIT}")
}
