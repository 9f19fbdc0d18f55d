//! What this build calls itself.

/// GitLab's version that this agent is like, and our own. kas decides by it
/// what an agent can do.
pub const VERSION: &str = concat!("v16.5.0+kas.", env!("CARGO_PKG_VERSION"));

/// The commit it was built from, where the build knew it.
pub const COMMIT: &str = match option_env!("KAS_COMMIT") {
    Some(commit) => commit,
    None => "00000000",
};

/// Name, version and commit, as in `User-Agent` and `Via`.
#[must_use]
pub fn user_agent() -> String {
    format!("gitlab-agent/{VERSION}/{COMMIT}")
}
