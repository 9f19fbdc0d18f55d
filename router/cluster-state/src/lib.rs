//! What the replicas of a cluster share: leases, membership, routes, presence, boards, channels.
//!
//! [`RoutingTable`] is what a replica knows of all: in one process by
//! [`memory`], or over a [`RouteStore`] that all replicas share, such as
//! [`redis`]. No tunnel, no call and no agent's protocol is known in this crate.

mod id;
pub mod memory;
mod presence;
pub mod redis;
mod ring;
pub mod shared;
mod store;
mod table;

pub use id::{AgentId, Owner, ReplicaId};
pub use presence::{Before, Presence, Telling, Told, Wanted};
pub use ring::Ring;
pub use shared::{SharedTable, Vouch, Word};
pub use store::{
    Change, Lease, Record, Renewal, ReplicaState, RouteStore, StoreError, StoreEvent, StoreFuture,
};
pub use table::{RoutingTable, TableFuture};
