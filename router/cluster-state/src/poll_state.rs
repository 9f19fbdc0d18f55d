//! What replicas share about the repositories that they poll, so that one of
//! them polls each for all.

use std::fmt::Debug;

use tokio::sync::broadcast;

use crate::{
    id::{AgentId, ReplicaId},
    store::StoreFuture,
};

/// The shared poll state, as one replica uses it. Losing it does no harm: each
/// replica polls by itself then.
pub trait SharedPollState: Debug + Send + Sync + 'static {
    /// The replica that uses it.
    fn me(&self) -> &ReplicaId;

    /// The projects whose repositories' records changed since they were last
    /// [read](Self::join).
    fn changes(&self) -> broadcast::Receiver<i64>;

    /// Adds this replica to those that serve agents of a repository, and reads
    /// the repository's record.
    fn join(&self, project: i64) -> StoreFuture<'_, PollRecord>;

    /// Publishes the result of this replica's poll, and removes replicas that
    /// are gone.
    fn post<'a>(
        &'a self,
        project: i64,
        head: &'a str,
        gone: &'a [ReplicaId],
    ) -> StoreFuture<'a, ()>;

    /// Removes this replica from those that serve agents of a repository.
    fn leave(&self, project: i64) -> StoreFuture<'_, ()>;

    /// Whether this replica is the first to act on this version of an agent's
    /// configuration.
    fn claim<'a>(&'a self, agent: AgentId, version: &'a str) -> StoreFuture<'a, bool>;

    /// Gives a claim back, so that another replica may act.
    fn disclaim(&self, agent: AgentId) -> StoreFuture<'_, ()>;
}

/// What replicas share about one repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PollRecord {
    /// The replicas that serve agents of it, this one included; some may be dead.
    pub replicas: Vec<ReplicaId>,
    /// The assignee's last result.
    pub head: Option<String>,
}
