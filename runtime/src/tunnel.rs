//! Tunnels, as both of their ends need them: a tunnel is a stream of `ReverseTunnel.Connect` that its client opens
//! for one call of the server.
//!
//! Agents are the clients, and kas is the one of receptive agents that take their calls to kas through tunnels.

mod descriptor;
mod error;
mod inbound;
mod metadata;
mod open;
mod outbound;
mod pool;

pub use descriptor::{BOUNDS as DESCRIPTOR_BOUNDS, framed as framed_descriptor, methods};
pub use error::TunnelError;
pub use inbound::Inbound;
pub use metadata::{answer_headers, answer_meta, call_headers, call_meta};
pub use open::{PATH, open};
pub use outbound::{Outbound, add_trailer};
pub use pool::{Next, Pool};
