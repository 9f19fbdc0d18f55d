//! What answers are made of.

use std::{sync::Arc, time::Duration};

use agent_gateway::{Clusters, Tracker};
use audit::Audit;
use cluster_state::{Owner, RoutingTable, StoreHealth};
use control_plane::{ControlPlane, standalone::Standalone};
use jiff::Timestamp;
use router::{Registry, Router};
use user_gateway::Metrics;

use crate::Life;

/// The parts of a replica that know what is asked.
#[derive(Debug, Clone)]
pub struct Sources {
    /// This replica.
    pub me: Owner,
    /// Its version.
    pub version: &'static str,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Who knows agents' names.
    pub control_plane: Arc<dyn ControlPlane>,
    /// The same, where it is a file: who may use which agent is known here then.
    pub standalone: Option<Arc<Standalone>>,
    /// The connected agent processes.
    pub tracker: Arc<Tracker>,
    /// The clusters that agents are pinned to, where that is kept.
    pub clusters: Option<Arc<Clusters>>,
    /// The replicas, and who holds agents' tunnels.
    pub table: Arc<dyn RoutingTable>,
    /// The tunnels of this replica.
    pub registry: Arc<Registry>,
    /// Its requests.
    pub requests: Metrics,
    /// Where changes by operators are recorded.
    pub audit: Audit,
    /// What it has survived, and what it waits for.
    pub life: Life,
    /// Where requests would go, and the connections to other replicas.
    pub router: Arc<Router>,
    /// How long requests of users wait for a tunnel at most.
    pub hold: Duration,
}

/// The word for a store's health.
pub(crate) fn store(health: StoreHealth) -> &'static str {
    match health {
        StoreHealth::InMemory => "memory",
        StoreHealth::Available => "available",
        StoreHealth::Unavailable => "unavailable",
    }
}
