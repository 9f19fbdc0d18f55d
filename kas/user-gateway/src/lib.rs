//! The users' port: Kubernetes' API of each agent's cluster, and what else users and their browsers ask for.
//!
//! Every request passes one front (its connection's limits, its origin, its id, its audit record) and then goes to the
//! first route of a table that answers it. It knows the control plane and the router, and nothing of agents'
//! connections or of GitLab.

mod account;
mod admission;
mod agent_series;
mod body;
mod caller;
mod caller_series;
mod caller_tallies;
pub mod config;
mod conversations;
mod events;
mod failure;
mod front;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gateway;
mod graph;
mod graph_api;
mod headers;
mod idle;
mod in_progress;
mod kubernetes_api;
mod load;
mod metrics;
mod places;
mod prefix;
mod query;
mod recent_errors;
mod request_id;
mod route;
mod scope;
mod sessions;
mod settings;
mod target;
mod token_route;
mod watch_aggregator;
mod websocket;
mod websocket_tokens;

pub use body::{CutShort, ResponseBody};
pub use front::{Origins, origin_of};
pub use gateway::UserGateway;
pub use graph::Graph;
pub use in_progress::RequestInProgress;
pub use load::{AgentTraffic, MINUTES, MinuteLoad, RecentLoad};
pub use metrics::Metrics;
pub use recent_errors::RecentError;
pub use sessions::{SessionFilter, SessionId, SessionInfo, SessionKind, Sessions};
pub use settings::Settings;
pub use websocket_tokens::WebSocketTokens;
