//! The routing table, as one replica reads and changes it.

use std::{fmt::Debug, future::Future, pin::Pin, time::Duration};

use tokio::sync::watch;

use crate::{
    id::{AgentId, Owner, ReplicaId},
    member::{Member, StoreHealth},
    presence::{Presence, PresenceEntry, PresenceQuery},
    ring::Ring,
    store::{Load, StoreError},
};

/// A future of a table operation.
pub type TableFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// agent → owners and presence; the replicas of the cluster.
///
/// Announcing and retracting never wait: an implementation over a store writes
/// in the background, in the order of the calls.
pub trait RoutingTable: Debug + Send + Sync + 'static {
    /// This replica has its first tunnel of the agent.
    fn announce(&self, agent: AgentId);

    /// This replica's last tunnel of the agent has ended.
    fn retract(&self, agent: AgentId);

    /// The other replicas that may hold tunnels of the agent, best first: live
    /// owners before draining ones. All live replicas while the owners are not
    /// known because the store is unavailable.
    fn owners(&self, agent: AgentId) -> TableFuture<'_, Vec<Owner>>;

    /// Changes whenever the owners of the agent may have changed.
    fn changes(&self, agent: AgentId) -> watch::Receiver<u64>;

    /// Time since any replica last had a tunnel of the agent; zero while one
    /// has, `None` if none ever had.
    fn last_seen(&self, agent: AgentId) -> TableFuture<'_, Option<Duration>>;

    /// Publishes this replica's presence of an agent; `None` removes it. Other
    /// replicas see it within seconds.
    fn set_presence(&self, agent: AgentId, presence: Option<Presence>);

    /// The presence that live replicas have published for the selected agents;
    /// an agent has one entry for each replica that it is connected to.
    fn find_presence<'a>(
        &'a self,
        query: &'a PresenceQuery,
    ) -> TableFuture<'a, Result<Vec<PresenceEntry>, StoreError>>;

    /// The live replicas, this one included. All replicas agree on its order.
    fn ring(&self) -> Ring;

    /// Whether an agent that the table does not list is really absent. `false`
    /// while the store is unavailable and during the recovery grace after that.
    fn is_authoritative(&self) -> bool;

    /// The same for one agent, whose own record may be incomplete.
    fn is_authoritative_for(&self, agent: AgentId) -> bool;

    /// Whether the store was reached once at least: a replica that never did knows no other, and no other knows it.
    fn was_reached(&self) -> bool {
        true
    }

    /// The replicas that may live, this one included, as this one sees them. Empty where nobody keeps a list.
    fn members(&self) -> Vec<Member> {
        Vec::new()
    }

    /// Whether the store that replicas share answers.
    fn store_health(&self) -> StoreHealth {
        StoreHealth::InMemory
    }

    /// The replica could not be reached: it ranks last among owners until it
    /// renews its lease.
    fn mark_unreachable(&self, replica: &ReplicaId);

    /// The connection to the replica at this URL broke without a goodbye: its
    /// process may have ended.
    fn connection_lost(&self, _url: &str) {}

    /// What this replica carries, which it tells the others with its lease.
    fn set_load(&self, _load: Load) {}

    /// This replica drains: others prefer owners that stay.
    fn drain(&self);

    /// Removes this replica's lease and all its entries, as far as that takes
    /// no longer than a few seconds.
    fn leave(&self) -> TableFuture<'_, ()>;
}
