//! Agents that cannot dial kas, and are dialled by it.
//!
//! The control plane lists them. Of all live replicas, the one on duty in the
//! order of the hash ring dials an agent; what follows is an ordinary connection
//! of an agent, with the roles at the socket reversed. When the duty moves, the
//! replica that had it keeps its connection until the agent is seen at the one
//! that has it now.

mod dial;
mod duty;
mod keeper;
mod states;
mod trouble;

pub use keeper::Keeper;
pub use states::ReceptiveStates;
