//! The agents' port: connections that live long, the tunnels and streams on them, and the services that agents
//! call, which are entries of a table ([`Services`]).
//!
//! It asks the control plane who an agent is, and gives tunnels to the router's registry. It knows no users,
//! no requests and no other port of the server.

pub mod config;
pub mod events;
mod flux;
mod gateway;
mod receptive;
mod tracker;

pub use flux::Flux;
pub use gateway::{
    AgentGateway, AgentMetrics, CLUSTER_PINS_CHANNEL, Clusters, DialledAgent, DialledConnection,
    DrainSettings, Method, STREAM_RENEWAL_INTERVAL, Services, Settings, WEBSOCKET_PING_INTERVAL,
    default_max_connections, make_request, reconcile_projects, report_events, route_jobs,
};
pub use receptive::{ReceptiveStates, ReceptiveSupervisor};
pub use tracker::{
    ConnectedProcess, GitLabConnections, InstanceGuard, RecentTrouble, Refusal, RegisterError,
    Tracker, processes,
};
