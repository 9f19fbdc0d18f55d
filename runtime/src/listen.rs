//! Accepting connections: whatever arrives, HTTP/2 comes out.

mod accept;
mod bind;
mod classify;
mod door;
mod local;
mod report;

pub use accept::{
    AcceptError, Accepted, AgentAcceptor, AgentAcceptorOptions, PlainAccepted, PlainAcceptor,
};
pub use bind::{BindError, Listener, bind};
pub(crate) use door::leave;
pub use local::{AnyListener, AnySocket, bind_unix};

pub use crate::io::Scheme;
