//! Finds the tunnel of an agent, wherever it is, and carries calls through it.
//!
//! Agents' tunnels wait in the [`registry`]; the [`RoutingTable`] says which replica
//! holds tunnels of which agent. [`Router::open`](search::Router::open) finds a
//! tunnel for a call: here, at a [peer](peers), or after a hold; [`owner`]
//! answers peers that ask for a tunnel held here. No listener, no HTTP, no
//! GitLab and no Kubernetes is known in this crate.

pub mod call;
pub mod error;
pub mod owner;
pub mod peers;
pub mod reader;
pub mod refusal;
pub mod registry;
pub mod search;
pub mod tunnel;

pub use call::{Call, Event, Opening};
pub use cluster_state::{AgentId, Owner, ReplicaId, RoutingTable};
pub use error::{Broken, OpenError};
pub use reader::{Reader, Readers};
pub use refusal::Refusal;
pub use registry::Registry;
pub use search::{Need, Router};
