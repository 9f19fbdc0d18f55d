//! Receptive agents: those that cannot dial kas, and are dialled by it.
//!
//! The control plane lists them. Of all live replicas, the agent's assignee in the hash ring dials it; what
//! follows is an ordinary connection of an agent, with the roles at the socket reversed. When the assignee
//! changes, the former one keeps its connection until the routing table shows the agent at the new one.

mod assignee;
mod dial;
mod dial_error;
mod states;
mod supervisor;

pub use states::ReceptiveStates;
pub use supervisor::ReceptiveSupervisor;
