//! A call that kas makes on the agent: its messages both ways, and how it can fail.

mod error;

pub(crate) use error::CallError;
pub(crate) use runtime::tunnel::{Inbound, Outbound, TunnelError, add_trailer};
