//! Where routing tables are kept: in this process, or in a store that all
//! replicas share.
//!
//! [`RouteStore`] is what a table needs of a shared store, and all it needs.
//! Everything kept there can be lost without harm: each replica writes again
//! what it holds.

use std::{fmt::Debug, future::Future, pin::Pin};

use tokio::sync::mpsc;

use crate::{
    id::{AgentId, Owner, ReplicaId},
    presence::{Telling, Told, Wanted},
};

/// A replica's proof of life. Its id is new at each start, so that it is the
/// epoch too: an entry of an earlier run never counts for a later one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which run of which replica.
    pub replica: ReplicaId,
    /// Where its private API is reached.
    pub url: String,
    /// Whether it stays.
    pub state: ReplicaState,
    /// Its version, for people who look.
    pub version: String,
    /// Grows with every renewal. A lease whose beat stands still for long
    /// enough, by the reader's own clock, is dead.
    pub beat: u64,
}

/// Whether a replica stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplicaState {
    /// It takes new work.
    #[default]
    Serving,
    /// It leaves; others are asked first.
    Draining,
}

/// What a renewal found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Renewal {
    /// Whether the lease was there before: if not, the store has lost it, and
    /// maybe more.
    pub existed: bool,
    /// The leases of all replicas, this one's included.
    pub leases: Vec<Lease>,
}

/// One change of an agent's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This replica holds tunnels of the agent.
    Own(AgentId),
    /// This replica holds none any more; it had one until then, in seconds since 1970.
    Disown(AgentId, u64),
    /// A dead replica's entry goes. It was found dead then, in seconds since
    /// 1970, which becomes the agent's last seen time if there is none later.
    Bury(AgentId, ReplicaId, u64),
}

/// What is kept of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Who holds tunnels of it, dead replicas included.
    pub owners: Vec<Owner>,
    /// When a replica last had to say that it holds none any more, in seconds since 1970.
    pub last_seen: Option<u64>,
    /// Whether who is not named here may be an owner nevertheless: there are entries that no replica
    /// wrote, or what was there has vanished whole, which no replica ever does.
    pub doubtful: bool,
}

impl Record {
    /// Whether nothing is kept of the agent, not even that it was there once.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty() && self.last_seen.is_none()
    }
}

/// What a store reports by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreEvent {
    /// The record of an agent that was read has changed since.
    Changed(AgentId),
    /// Reports may have been lost: whatever was read is of no use any more.
    Missed,
    /// The store is back after it was away, or was emptied meanwhile.
    Back,
}

/// A store failed to do what it was asked to; whether it did so nevertheless is unknown.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the routing store: {0}")]
pub struct StoreError(pub String);

/// A future of a store operation. Dropping it gives up waiting, not always the operation.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store that all replicas share. It may be slow, away or emptied at any
/// time; callers bound their waiting.
pub trait RouteStore: Debug + Send + Sync + 'static {
    /// Renews this replica's lease, and reads all.
    fn renew<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, Renewal>;

    /// Removes what a replica told, and then its lease: of one that leaves, or
    /// one that is dead.
    fn end_lease<'a>(&'a self, replica: &'a ReplicaId) -> StoreFuture<'a, ()>;

    /// Applies changes of agents' records for the replica `me`, in one exchange
    /// where that is possible. Doing so again does no harm.
    fn apply<'a>(&'a self, me: &'a Owner, changes: &'a [Change]) -> StoreFuture<'a, ()>;

    /// Reads an agent's record. Its next change after that is reported once. An empty one of a store that
    /// has lost this replica's lease meanwhile is [doubtful](Record::doubtful): it was emptied, which
    /// need not be reported.
    fn read(&self, agent: AgentId) -> StoreFuture<'_, Record>;

    /// Changes what the replica `me` tells of agents, in one exchange where
    /// that is possible. Doing so again does no harm. All of it goes with the
    /// replica's lease.
    fn tell<'a>(&'a self, me: &'a ReplicaId, tellings: &'a [Telling]) -> StoreFuture<'a, ()>;

    /// What these replicas tell of those who are wanted.
    fn told<'a>(
        &'a self,
        replicas: &'a [ReplicaId],
        wanted: &'a Wanted,
    ) -> StoreFuture<'a, Vec<Told>>;

    /// The reports. Taken once; `None` after that.
    fn events(&self) -> Option<mpsc::Receiver<StoreEvent>>;
}
