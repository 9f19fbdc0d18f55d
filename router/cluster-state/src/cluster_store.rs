//! The seam to a store that replicas share: everything that one offers.

use std::sync::Arc;

use crate::{
    channel::Channel, cluster_pins::ClusterPins, connection_record::ConnectionRecords,
    id::ReplicaId, one_time::OneTimeClaims, poll_state::SharedPollState, store::RouteStore,
};

/// All that replicas share through a store. Another store is one more
/// implementation of this trait.
pub trait ClusterStore: RouteStore {
    /// A channel that lives as long as the store.
    fn channel(&self, name: &'static str) -> Arc<dyn Channel>;

    /// The shared poll state, as the replica `me` uses it.
    fn poll_state(&self, me: ReplicaId) -> Arc<dyn SharedPollState>;

    /// Claims that only one replica wins.
    fn one_time_claims(&self) -> Arc<dyn OneTimeClaims>;

    /// What happened to the connections of each agent.
    fn connection_records(&self) -> Arc<dyn ConnectionRecords>;

    /// Which cluster each agent belongs to.
    fn cluster_pins(&self) -> Arc<dyn ClusterPins>;
}
