//! TCP to one of the addresses of a host.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::{Instant, timeout},
};

/// No TCP connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host has no address.
    #[error("cannot resolve {host:?}: {error}")]
    Resolve {
        /// The host.
        host: String,
        /// Why.
        error: io::Error,
    },
    /// None of its addresses answers.
    #[error("{0}")]
    Refused(Attempts),
}

/// Every address that was tried, and why it failed.
#[derive(Debug)]
pub struct Attempts(Vec<(SocketAddr, io::Error)>);

impl std::fmt::Display for Attempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (address, error)) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {error}")?;
        }
        Ok(())
    }
}

/// Tries the addresses of `host` one after the other, starting anywhere, so
/// that a fleet spreads. Each gets its share of what is left of the `limit`.
pub(super) async fn tcp(
    host: &str,
    port: u16,
    local: Option<IpAddr>,
    limit: Duration,
) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + limit;
    let mut addresses = resolve(host, port, local).await?;
    let start = rand::random_range(0..addresses.len());
    addresses.rotate_left(start);
    let mut attempts = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let others = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        match timeout(left / others, dial(*address, local)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => attempts.push((*address, error)),
            Err(_) => attempts.push((*address, io::ErrorKind::TimedOut.into())),
        }
    }
    Err(DialError::Refused(Attempts(attempts)))
}

async fn resolve(
    host: &str,
    port: u16,
    local: Option<IpAddr>,
) -> Result<Vec<SocketAddr>, DialError> {
    let failed = |error| DialError::Resolve {
        host: host.to_owned(),
        error,
    };
    let addresses: Vec<_> = lookup_host((host, port))
        .await
        .map_err(failed)?
        .filter(|address| local.is_none_or(|local| local.is_ipv4() == address.is_ipv4()))
        .collect();
    if addresses.is_empty() {
        return Err(failed(io::Error::new(
            io::ErrorKind::NotFound,
            "it has no address of this family",
        )));
    }
    Ok(addresses)
}

async fn dial(address: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    if let Some(local) = local {
        socket.bind((local, 0).into())?;
    }
    socket.connect(address).await
}
