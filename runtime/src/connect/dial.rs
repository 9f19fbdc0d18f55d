//! TCP to one of the addresses of a host.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use super::ConnectOptions;

/// An address's silence after which the next is tried too.
const FALLBACK_DELAY: Duration = Duration::from_millis(250);

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

impl DialError {
    /// Whether the machines are there and nobody listens.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Resolve { .. } => false,
            Self::Refused(Attempts(attempts)) => attempts
                .iter()
                .all(|(_, error)| error.kind() == io::ErrorKind::ConnectionRefused),
        }
    }
}

impl std::fmt::Display for Attempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (address, error)) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {error}")?;
        }
        Ok(())
    }
}

/// Tries the addresses of `host`, starting anywhere, so that a fleet spreads,
/// and with those to avoid last. The next is tried as soon as one fails or is
/// silent for a moment; the first that answers wins.
pub(super) async fn tcp(
    host: &str,
    port: u16,
    options: &ConnectOptions,
) -> Result<TcpStream, DialError> {
    let local = options.local_address;
    let mut addresses = resolve(host, port, local).await?;
    let start = rand::random_range(0..addresses.len());
    addresses.rotate_left(start);
    addresses.sort_by_key(|address| options.avoid.contains(address));
    let mut untried = addresses.into_iter();
    let mut dialling = FuturesUnordered::new();
    let mut attempts = Vec::new();
    loop {
        if let Some(address) = untried.next() {
            dialling.push(async move { (address, dial(address, local).await) });
        }
        tokio::select! {
            tried = dialling.next() => match tried {
                Some((_, Ok(tcp))) => return Ok(tcp),
                Some((address, Err(error))) => attempts.push((address, error)),
                None => return Err(DialError::Refused(Attempts(attempts))),
            },
            () = tokio::time::sleep(FALLBACK_DELAY), if untried.len() > 0 => {}
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_refuses_costs_no_time_and_is_named_if_all_do() {
        // Bound and not listening: nobody else gets the port, and who dials it is refused.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = held.local_addr().unwrap().port();

        let options = ConnectOptions::default();
        let error = tcp("localhost", port, &options).await.unwrap_err();

        assert!(error.to_string().contains(&port.to_string()), "{error}");
    }
}
