//! Finds the tunnel of an agent, on whichever replica it ends, and carries calls
//! through it.
//!
//! Agents' tunnels are idle in the [`registry`] until a call takes one; the
//! [`RoutingTable`] lists the replicas that hold tunnels of an agent.
//! [`Router::open`](search::Router::open) finds a tunnel for a call: on this
//! replica, at a [peer](peers), or after a hold; [`owner`] serves peers that
//! request a tunnel of this replica. No listener, no HTTP, no GitLab and no
//! Kubernetes is known in this crate.
//!
//! Modules depend on each other in this order: `opening`, `error`, `refusal` ◄
//! `tunnel`, `peers` ◄ `call` ◄ `reader` ◄ `registry` ◄ `search`, `owner`.

pub mod call;
pub mod error;
pub mod opening;
pub mod owner;
pub mod peers;
pub mod reader;
pub mod refusal;
pub mod registry;
pub mod search;
pub mod tunnel;

pub use call::{Call, Event};
pub use cluster_state::{AgentId, Owner, ReplicaId, RoutingTable};
pub use error::{Broken, OpenError};
pub use opening::{Need, Opening, REQUEST_ID};
pub use reader::{Reader, Readers};
pub use refusal::Refusal;
pub use registry::{AgentTunnels, Registry};
pub use search::{Explanation, Router};
