//! The seam to the routing table: which replica holds tunnels of which agent.

use std::{fmt::Debug, future::Future, pin::Pin, time::Duration};

use tokio::sync::watch;

use crate::{
    id::{AgentId, Owner, ReplicaId},
    presence::{Presence, Told, Wanted},
    ring::Ring,
    store::StoreError,
};

/// A future of a table operation.
pub type TableFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// agent → owners, as one replica sees and changes it.
///
/// Announcing and retracting never wait: an implementation that has to talk to
/// a store does so in its own time, in the order of the calls.
pub trait RoutingTable: Debug + Send + Sync + 'static {
    /// This replica now holds a tunnel of the agent.
    fn announce(&self, agent: AgentId);

    /// This replica's last tunnel of the agent is gone.
    fn retract(&self, agent: AgentId);

    /// The other replicas that may hold tunnels of the agent, best first: live
    /// owners, those that leave last. While the store is away and the owners
    /// are not known, all live replicas.
    fn owners(&self, agent: AgentId) -> TableFuture<'_, Vec<Owner>>;

    /// Changes whenever the owners of the agent may have changed.
    fn changes(&self, agent: AgentId) -> watch::Receiver<u64>;

    /// How long ago any replica last had a tunnel of the agent; zero while one
    /// has, `None` if never.
    fn last_seen(&self, agent: AgentId) -> TableFuture<'_, Option<Duration>>;

    /// From now on, this is told of an agent to whoever asks, on any replica.
    /// Takes effect for others within seconds.
    fn tell(&self, agent: AgentId, presence: Option<Presence>);

    /// What live replicas tell of those who are wanted; one agent may be told
    /// of by several.
    fn told<'a>(&'a self, wanted: &'a Wanted) -> TableFuture<'a, Result<Vec<Told>, StoreError>>;

    /// The live replicas, this one included: they agree on who does what only one
    /// should.
    fn ring(&self) -> Ring;

    /// Whether the table's word on absent agents counts now: it does not while
    /// its store is away, and for a while after.
    fn certain(&self) -> bool;

    /// The same for its word on one agent, which may have to be doubted for itself.
    fn certain_of(&self, agent: AgentId) -> bool;

    /// A replica could not be reached: it is nobody's owner until it is heard of again.
    fn unreachable(&self, replica: &ReplicaId);

    /// The connection to the replica at this URL broke without a word: it may have ended.
    fn lost(&self, _url: &str) {}

    /// This replica leaves: others prefer owners that stay.
    fn drain(&self);

    /// This replica has left: its lease and all its entries go, as far as that
    /// can be done in a few seconds.
    fn leave(&self) -> TableFuture<'_, ()>;
}
