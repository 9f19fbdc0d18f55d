//! A call that kas makes on the agent: its messages both ways, and how it can fail.

mod error;
mod inbound;
mod outbound;

pub(crate) use error::{CallError, TunnelError};
pub(crate) use inbound::Inbound;
pub(crate) use outbound::{Outbound, add_trailer};
