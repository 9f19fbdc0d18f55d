//! Receptive agents: those that cannot dial kas, and are dialled by it.
//!
//! The control plane lists them. Of all live replicas, the agent's assignee in the hash ring dials it; what
//! follows is an ordinary connection of an agent, with the roles at the socket reversed: it comes inside one call,
//! or, from agents that know only this, each of its calls by a tunnel ([`tunnels`]). When the assignee changes, the former one keeps its connection until the routing table shows the agent at the new one.

mod assignee;
mod credentials;
mod dial;
mod dial_error;
mod form;
mod http2;
mod states;
mod supervisor;
mod tunnels;

pub use states::ReceptiveStates;
pub use supervisor::ReceptiveSupervisor;
