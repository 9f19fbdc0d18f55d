//! What the replicas of a cluster share: routes, leases and membership,
//! presence, connection records, cluster pins, channels, poll state and
//! one-time claims.
//!
//! [`RoutingTable`] is one replica's view of routes, presence and members:
//! [`memory`] has one for a single process, [`SharedTable`] keeps one over a
//! [`RouteStore`]. A [`ClusterStore`] offers everything that replicas share;
//! [`redis`] is one, and nothing outside that module knows Redis. No tunnel, no
//! call and no wire protocol is known in this crate.

mod channel;
mod cluster_pins;
mod cluster_store;
mod connection_log;
mod connection_record;
mod id;
mod member;
pub mod memory;
mod one_time;
mod poll_state;
mod presence;
mod probe;
pub mod redis;
mod ring;
mod shared;
mod store;
mod table;

pub use channel::{Channel, ChannelEvent};
pub use cluster_pins::{ClusterPins, ClusterUid, ClusterUidError, MAX_PINS};
pub use cluster_store::ClusterStore;
pub use connection_log::ConnectionLog;
pub use connection_record::{
    ConnectionEvent, ConnectionRecord, ConnectionRecords, RECORDS_OF_STRANGERS, RECORDS_PER_AGENT,
    RecordSubject, RecordsPage,
};
pub use id::{AgentId, MAX_URLS, Owner, ReplicaId, published, urls};
pub use member::{Member, MemberState, StoreHealth};
pub use one_time::OneTimeClaims;
pub use poll_state::{PollRecord, SharedPollState};
pub use presence::{
    ConnectionForm, FOREIGN_REPLICA, Presence, PresenceEntry, PresenceQuery, PresenceUpdate,
    StoredPresence,
};
pub use probe::{Liveness, PeerProbe};
pub use ring::Ring;
pub use shared::{SharedTable, TableSettings, TableStats};
pub use store::{
    Lease, Load, Record, Renewal, ReplicaState, RouteChange, RouteStore, StoreError, StoreEvent,
    StoreFuture,
};
pub use table::{RoutingTable, TableFuture};
