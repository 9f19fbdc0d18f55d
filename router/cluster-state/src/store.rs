//! Leases, routes and presence in a store that replicas share: what
//! [`SharedTable`](crate::SharedTable) needs of one.
//!
//! Everything in a store may be lost without harm: each replica writes again
//! what it holds.

use std::{
    error::Error,
    fmt::{Debug, Display},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    id::{AgentId, Owner, ReplicaId},
    presence::{PresenceEntry, PresenceQuery, PresenceUpdate},
};

/// A replica's lease. A replica has a new id with each start, so the id is the
/// epoch too: an entry of an earlier run never counts for a later one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The run of a replica.
    pub replica: ReplicaId,
    /// URL of its private API.
    pub url: String,
    /// Whether it drains.
    pub state: ReplicaState,
    /// Its version; informational.
    pub version: String,
    /// Grows with every renewal. The lease has expired when it stands still
    /// for long enough by the reader's own clock.
    pub beat: u64,
    /// What the replica carries; `None` from one that does not tell it.
    pub load: Option<Load>,
}

/// What a replica carries, for others that compare it with what they carry themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Connections of agents that have shown a valid token.
    pub agent_connections: u32,
    /// How many of these the replica takes.
    pub max_agent_connections: u32,
}

/// Whether a replica drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplicaState {
    /// It takes new work.
    #[default]
    Serving,
    /// It leaves; other owners are asked first.
    Draining,
}

/// The outcome of renewing a lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Renewal {
    /// Whether the lease was there before. If not, the store has lost it, and
    /// possibly more.
    pub existed: bool,
    /// The leases of all replicas, the renewed one included.
    pub leases: Vec<Lease>,
}

/// A change of one agent's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// This replica holds tunnels of the agent.
    Announce(AgentId),
    /// This replica has held none since this time, in seconds since 1970.
    Retract(AgentId, u64),
    /// Removes the entry of a replica that was found dead at this time, in
    /// seconds since 1970, which becomes the agent's last-seen time unless
    /// there is a later one.
    RemoveDead(AgentId, ReplicaId, u64),
}

/// An agent's record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The replicas that hold tunnels of the agent; some may be dead.
    pub owners: Vec<Owner>,
    /// Owners that write no lease and sign nothing, since they are of another kas. Their ids are their URLs.
    pub foreign: Vec<Owner>,
    /// When a replica last retracted the agent, in seconds since 1970.
    pub last_seen: Option<u64>,
    /// Whether there may be owners beyond those listed: entries were rejected,
    /// the whole record vanished, which no replica ever causes, or nothing is
    /// listed where another kas lists owners with idle tunnels only.
    pub incomplete: bool,
}

impl Record {
    /// Whether nothing is stored for the agent, not even a last-seen time.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty() && self.foreign.is_empty() && self.last_seen.is_none()
    }
}

/// What a store reports on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreEvent {
    /// The record of an agent has changed since it was read.
    RecordChanged(AgentId),
    /// Events may have been missed: no record that was read counts any more.
    EventsMissed,
    /// The store is reachable again; it may have lost data meanwhile.
    Reconnected,
}

/// A store operation failed. It may have taken effect nevertheless.
///
/// The message contains the cause, so [`Error::source`] is `None`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer in time.
    #[error("the routing store did not answer within {0:?}")]
    Timeout(Duration),
    /// The store refused, or the connection to it failed.
    #[error("the routing store ({store}): {cause}")]
    Failed {
        /// The store, for people.
        store: String,
        /// Why.
        cause: Arc<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    /// A failed operation of a store of this name.
    pub fn failed(
        store: impl Display,
        cause: impl Into<Box<dyn Error + Send + Sync + 'static>>,
    ) -> Self {
        Self::Failed {
            store: store.to_string(),
            cause: cause.into().into(),
        }
    }
}

/// A future of a store operation. Dropping it stops waiting, not always the operation.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Leases, routes and presence in a shared store. It may be slow, unavailable
/// or emptied at any time; callers bound their waiting.
pub trait RouteStore: Debug + Send + Sync + 'static {
    /// Renews this replica's lease, and reads all leases.
    fn renew<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, Renewal>;

    /// Removes a replica's presence and then its lease: of one that leaves or
    /// is dead. The lease goes last, so that a replica that was only frozen
    /// finds it missing and writes everything again.
    fn end_lease<'a>(&'a self, replica: &'a ReplicaId) -> StoreFuture<'a, ()>;

    /// Applies changes of agents' records for the replica `me`, in one round
    /// trip where possible. Idempotent.
    fn apply<'a>(&'a self, me: &'a Owner, changes: &'a [RouteChange]) -> StoreFuture<'a, ()>;

    /// Reads an agent's record. Its next change is reported once. An empty
    /// record is [incomplete](Record::incomplete) if this replica's lease is
    /// missing from the store: it was emptied, which need not be reported.
    fn read(&self, agent: AgentId) -> StoreFuture<'_, Record>;

    /// Updates the presence that the replica `me` publishes, in one round trip
    /// where possible. Idempotent. All of it goes with the replica's lease.
    fn update_presence<'a>(
        &'a self,
        me: &'a ReplicaId,
        updates: &'a [PresenceUpdate],
    ) -> StoreFuture<'a, ()>;

    /// The presence that these replicas publish for the selected agents.
    fn find_presence<'a>(
        &'a self,
        replicas: &'a [ReplicaId],
        query: &'a PresenceQuery,
    ) -> StoreFuture<'a, Vec<PresenceEntry>>;

    /// The store's events. Can be taken once; `None` after that.
    fn events(&self) -> Option<mpsc::Receiver<StoreEvent>>;
}
