//! Listening on TCP or on a Unix socket, where both will do.

use std::{fmt, io, net::SocketAddr, path::Path, time::Duration};

use tokio::net::{TcpStream, UnixListener, UnixStream};

use super::{BindError, Listener};
use crate::descriptors;

/// Pause when the process is out of file descriptors or memory.
const EXHAUSTED_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A listener on either.
#[derive(Debug)]
pub enum AnyListener {
    /// On TCP.
    Tcp(Listener),
    /// On a Unix socket.
    Unix(UnixListener),
}

/// A connection that was accepted on either.
#[derive(Debug)]
pub enum AnySocket {
    /// By TCP, from there.
    Tcp(TcpStream, SocketAddr),
    /// By a Unix socket.
    Unix(UnixStream),
}

impl AnyListener {
    /// The next connection; failures that pass are waited out. Cancel-safe.
    pub async fn accept(&self) -> AnySocket {
        match self {
            Self::Tcp(listener) => {
                let (socket, remote_addr) = listener.accept().await;
                AnySocket::Tcp(socket, remote_addr)
            }
            Self::Unix(listener) => loop {
                let socket = accept_unix(listener).await;
                if !descriptors::is_reserved(&socket) {
                    return AnySocket::Unix(socket);
                }
            },
        }
    }
}

impl AnyListener {
    /// The same for the few connections for which file descriptors are kept back.
    pub(crate) async fn accept_reserved(&self) -> AnySocket {
        match self {
            Self::Tcp(listener) => {
                let (socket, remote_addr) = listener.accept_reserved().await;
                AnySocket::Tcp(socket, remote_addr)
            }
            Self::Unix(listener) => AnySocket::Unix(accept_unix(listener).await),
        }
    }

    /// Where it listens on TCP, with the real port.
    #[must_use]
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => Some(listener.local_addr()),
            Self::Unix(_) => None,
        }
    }
}

impl From<Listener> for AnyListener {
    fn from(listener: Listener) -> Self {
        Self::Tcp(listener)
    }
}

async fn accept_unix(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => return socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(EXHAUSTED_RETRY_INTERVAL).await;
            }
        }
    }
}

impl fmt::Display for AnyListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => listener.local_addr().fmt(f),
            Self::Unix(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "{address:?}"),
                Err(error) => error.fmt(f),
            },
        }
    }
}

/// Binds a Unix socket. One that a dead process left behind is replaced.
///
/// # Errors
/// [`BindError`], naming the path.
pub fn bind_unix(path: &Path) -> Result<UnixListener, BindError> {
    let named = |error| BindError {
        address: path.display().to_string(),
        error,
    };
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path) => {
            std::fs::remove_file(path).map_err(named)?;
            UnixListener::bind(path).map_err(named)
        }
        bound => bound.map_err(named),
    }
}

fn is_left_behind(path: &Path) -> bool {
    let refused = std::os::unix::net::UnixStream::connect(path);
    refused.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_in_use_is_left_alone_and_one_left_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let first = bind_unix(&path).unwrap();
        let error = bind_unix(&path).unwrap_err();
        assert!(error.to_string().contains("api.sock"), "{error}");
        drop(first);

        let second = AnyListener::Unix(bind_unix(&path).unwrap());
        let _client = UnixStream::connect(&path).await.unwrap();

        assert!(matches!(second.accept().await, AnySocket::Unix(_)));
    }
}
