//! Accepting connections: whatever arrives, HTTP/2 comes out.

mod accept;
mod bind;
mod classify;
mod config;
mod first_bytes;
mod local;
mod report;
mod socket;

pub use accept::{
    AcceptError, Accepted, AgentAcceptor, AgentAcceptorOptions, PlainAccepted, PlainAcceptor,
};
pub use bind::{BindError, Listener, TcpNetwork, bind, bind_tcp};
pub use config::{ListenAddress, Listens, Network, TlsFiles, check_address, check_pair, tls_files};
pub use local::{AnyListener, AnySocket, bind_unix};
pub use socket::{Handshake, Listen, RemoteAddr, Socket};

pub use crate::io::Scheme;
