//! What the accept loop needs of a listener, of its sockets and of their handshakes.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::net::TcpStream;

use super::{AcceptError, AnyListener, AnySocket, Listener};

/// Accepts connections.
pub trait Listen: Send + Sync {
    /// A connection before its handshakes.
    type Socket: Socket;

    /// The next connection; failures that pass are waited out. Cancel-safe.
    fn next(&self) -> impl Future<Output = Self::Socket> + Send;
}

/// A connection before its handshakes.
pub trait Socket: Send + 'static {
    /// Where its other end is.
    fn remote_addr(&self) -> RemoteAddr;
}

/// Does the handshakes of a port's connections. Cheap to clone.
pub trait Handshake<S>: Clone + Send + Sync + 'static {
    /// A connection on which the port's protocol is spoken.
    type Connection: Send + 'static;

    /// Does the handshakes, within a deadline.
    fn handshake(
        &self,
        socket: S,
    ) -> impl Future<Output = Result<Self::Connection, AcceptError>> + Send;
}

/// The address of a connection's other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteAddr {
    /// On TCP.
    Tcp(SocketAddr),
    /// On a Unix socket, which has none.
    Unix,
}

impl RemoteAddr {
    /// The address, where one is needed: all who come by Unix sockets share `0.0.0.0:0`.
    #[must_use]
    pub fn socket_addr(self) -> SocketAddr {
        match self {
            Self::Tcp(address) => address,
            Self::Unix => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        }
    }
}

impl fmt::Display for RemoteAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix socket"),
        }
    }
}

impl Socket for (TcpStream, SocketAddr) {
    fn remote_addr(&self) -> RemoteAddr {
        RemoteAddr::Tcp(self.1)
    }
}

impl Socket for AnySocket {
    fn remote_addr(&self) -> RemoteAddr {
        match self {
            Self::Tcp(_, address) => RemoteAddr::Tcp(*address),
            Self::Unix(_) => RemoteAddr::Unix,
        }
    }
}

impl Listen for Listener {
    type Socket = (TcpStream, SocketAddr);

    async fn next(&self) -> Self::Socket {
        self.accept().await
    }
}

impl Listen for &Listener {
    type Socket = (TcpStream, SocketAddr);

    async fn next(&self) -> Self::Socket {
        self.accept().await
    }
}

impl Listen for &AnyListener {
    type Socket = AnySocket;

    async fn next(&self) -> AnySocket {
        self.accept().await
    }
}

impl Listen for AnyListener {
    type Socket = AnySocket;

    async fn next(&self) -> AnySocket {
        self.accept().await
    }
}
