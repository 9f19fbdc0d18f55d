//! Binding a listener, and the accept loop's one step.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::SockRef;
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

/// The kinds of TCP, as Go names them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TcpNetwork {
    /// Over IPv4 and IPv6.
    #[default]
    Tcp,
    /// Over IPv4 only.
    Tcp4,
    /// Over IPv6 only.
    Tcp6,
}

/// Binds `host:port`; `:port` means all interfaces.
///
/// # Errors
/// [`BindError`], naming the address.
pub async fn bind(address: &str) -> Result<Listener, BindError> {
    bind_tcp(TcpNetwork::Tcp, address).await
}

/// The same over these versions of IP. All interfaces are those of both versions with [`TcpNetwork::Tcp`], where the
/// machine has both, also for `0.0.0.0`, as Go has it.
///
/// # Errors
/// [`BindError`], naming the address.
pub async fn bind_tcp(network: TcpNetwork, address: &str) -> Result<Listener, BindError> {
    try_bind(network, address).await.map_err(|error| BindError {
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
                Ok((socket, remote_addr)) => {
                    // Those who come by IPv4 to a listener of both versions have such addresses.
                    let ip = remote_addr.ip().to_canonical();
                    return (socket, SocketAddr::new(ip, remote_addr.port()));
                }
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

async fn try_bind(network: TcpNetwork, address: &str) -> io::Result<Listener> {
    let mut last = io::Error::new(
        io::ErrorKind::NotFound,
        "the host has no address of this version of IP",
    );
    for (address, only_v6) in addresses(network, address).await? {
        match listen(address, only_v6) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What is tried in turn, and whether a listener on IPv6 is for that alone.
async fn addresses(network: TcpNetwork, address: &str) -> io::Result<Vec<(SocketAddr, bool)>> {
    let [v4, v6] = [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    let host_and_port = match address.strip_prefix(':') {
        Some(port) => format!("{v4}:{port}"),
        None => address.to_owned(),
    };
    let found: Vec<_> = tokio::net::lookup_host(host_and_port).await?.collect();
    if let [only] = found[..]
        && (only.ip() == v4 || address.starts_with(':'))
    {
        let port = only.port();
        return Ok(match network {
            // A machine may have no IPv6.
            TcpNetwork::Tcp => vec![((v6, port).into(), false), ((v4, port).into(), false)],
            TcpNetwork::Tcp4 => vec![((v4, port).into(), false)],
            TcpNetwork::Tcp6 => vec![((v6, port).into(), true)],
        });
    }
    let fits = |address: &SocketAddr| match network {
        TcpNetwork::Tcp => true,
        TcpNetwork::Tcp4 => address.is_ipv4(),
        TcpNetwork::Tcp6 => address.is_ipv6(),
    };
    let only_v6 = network == TcpNetwork::Tcp6;
    let fitting = found.into_iter().filter(fits);
    Ok(fitting.map(|address| (address, only_v6)).collect())
}

fn listen(address: SocketAddr, only_v6: bool) -> io::Result<Listener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            SockRef::from(&socket).set_only_v6(only_v6)?;
            socket
        }
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

    #[tokio::test]
    async fn all_interfaces_are_those_of_the_networks_versions() {
        for (network, address, from_v4, from_v6) in [
            (TcpNetwork::Tcp, ":0", true, true),
            (TcpNetwork::Tcp, "0.0.0.0:0", true, true),
            (TcpNetwork::Tcp, "[::]:0", true, true),
            (TcpNetwork::Tcp4, ":0", true, false),
            (TcpNetwork::Tcp6, ":0", false, true),
            (TcpNetwork::Tcp6, "[::]:0", false, true),
            (TcpNetwork::Tcp6, "[::1]:0", false, true),
            (TcpNetwork::Tcp, "127.0.0.1:0", true, false),
        ] {
            let listener = bind_tcp(network, address).await.unwrap();
            let port = listener.local_addr().port();
            let reached = async |host: &str| TcpStream::connect((host, port)).await.is_ok();

            let both = (reached("127.0.0.1").await, reached("::1").await);

            assert_eq!(both, (from_v4, from_v6), "{network:?} {address}");
        }
    }

    #[tokio::test]
    async fn who_comes_by_ipv4_has_an_address_of_ipv4() {
        let listener = bind_tcp(TcpNetwork::Tcp, ":0").await.unwrap();
        let port = listener.local_addr().port();

        let _client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (_, remote_addr) = listener.accept().await;

        assert_eq!(remote_addr.ip(), Ipv4Addr::LOCALHOST);
    }

    #[tokio::test]
    async fn an_address_of_the_other_version_is_refused() {
        assert!(bind_tcp(TcpNetwork::Tcp6, "127.0.0.1:0").await.is_err());
        assert!(bind_tcp(TcpNetwork::Tcp4, "[::1]:0").await.is_err());
    }
}
