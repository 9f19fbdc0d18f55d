//! Binding a listener, and the accept loop's one step.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::{descriptors, telemetry::Repeats};

/// Connections that may wait to be accepted: a fleet reconnects at once.
const BACKLOG_CONNECTIONS: u32 = 4096;
/// Pause when the process is out of file descriptors or memory.
const EXHAUSTED_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct BindError {
    /// The address asked for.
    pub address: String,
    /// Why.
    pub error: io::Error,
}

/// A bound TCP listener.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
}

/// Binds `host:port`; `:port` means all interfaces.
///
/// # Errors
/// [`BindError`], naming the address.
pub async fn bind(address: &str) -> Result<Listener, BindError> {
    try_bind(address).await.map_err(|error| BindError {
        address: address.to_owned(),
        error,
    })
}

impl Listener {
    /// Where it listens, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. Failures that concern one connection, or that
    /// pass, are waited out; when nearly all file descriptors are in use, new
    /// connections are closed at once. Cancel-safe.
    pub async fn accept(&self) -> (TcpStream, SocketAddr) {
        static SCARCE: Repeats = Repeats::new("too many open files; closing new connection");
        loop {
            let (socket, remote_addr) = self.accept_reserved().await;
            if !descriptors::is_reserved(&socket) {
                return (socket, remote_addr);
            }
            if SCARCE.admit() {
                tracing::warn!(%remote_addr, listener = %self.address, "too many open files; closing new connection");
            }
        }
    }

    /// The same for the few connections for which file descriptors are kept
    /// back: those of probes.
    pub(crate) async fn accept_reserved(&self) -> (TcpStream, SocketAddr) {
        static FAILED: Repeats = Repeats::new("cannot accept connections");
        loop {
            match self.tcp.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    if FAILED.admit() {
                        tracing::warn!(%error, listener = %self.address, "cannot accept connections");
                    }
                    tokio::time::sleep(EXHAUSTED_RETRY_INTERVAL).await;
                }
            }
        }
    }
}

async fn try_bind(address: &str) -> io::Result<Listener> {
    let host_and_port = match address.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => address.to_owned(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for found in tokio::net::lookup_host(host_and_port).await? {
        match listen(found) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen(address: SocketAddr) -> io::Result<Listener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let tcp = socket.listen(BACKLOG_CONNECTIONS)?;
    let address = tcp.local_addr()?;
    Ok(Listener { tcp, address })
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let first = bind("127.0.0.1:0").await.unwrap();
        let address = first.local_addr().to_string();

        let error = bind(&address).await.unwrap_err();

        assert!(error.to_string().contains(&address), "{error}");
    }

    #[tokio::test]
    async fn connections_are_accepted() {
        let listener = bind("localhost:0").await.unwrap();

        let client = TcpStream::connect(listener.local_addr()).await.unwrap();
        let (_, peer) = listener.accept().await;

        assert_eq!(peer, client.local_addr().unwrap());
    }
}
