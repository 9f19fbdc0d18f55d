//! Identities.

use std::sync::Arc;

/// The number of a registered agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(pub i64);

impl std::fmt::Display for AgentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of one run of a replica; a restart has another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId(Arc<str>);

impl ReplicaId {
    /// A replica of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

impl std::fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A replica that holds tunnels of an agent, or this replica as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub replica: ReplicaId,
    /// The URL of its private API, as it is published: several have commas between, see [`urls`].
    pub url: String,
}

/// URLs of one replica that are dialled, at most.
pub const MAX_URLS: usize = 8;
/// What stands between the URLs of a replica.
const SEPARATOR: &str = ",";

/// The URLs in what a replica publishes: it is reached at one of them, from each place perhaps at another.
pub fn urls(published: &str) -> impl Iterator<Item = &str> {
    let urls = published.split(SEPARATOR).map(str::trim);
    urls.filter(|url| !url.is_empty()).take(MAX_URLS)
}

/// What a replica publishes that has these URLs.
#[must_use]
pub fn published(urls: &[String]) -> String {
    urls.join(SEPARATOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_they_were_published_up_to_a_limit() {
        let all: Vec<_> = (0..100).map(|it| format!("grpc://10.0.0.{it}:1")).collect();

        assert_eq!(urls(&published(&all[..3])).collect::<Vec<_>>(), all[..3]);
        assert_eq!(urls(&published(&all)).count(), MAX_URLS);
        assert_eq!(urls(" , ,").count(), 0);
    }
}
