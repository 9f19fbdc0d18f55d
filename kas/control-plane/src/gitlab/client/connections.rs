//! How many requests GitLab gets at a time: each has a connection, and a slow GitLab keeps it for seconds.

use std::{net::IpAddr, sync::Arc, time::Duration};

use moka::sync::Cache;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::super::call::Requester;

/// Connections at a time, busy or idle.
const CONNECTIONS_MAX: usize = 100;
/// Of these, idle ones that are kept.
pub(super) const IDLE_MAX: usize = 50;
/// Of all, those for tokens that were never good.
const UNKNOWN_CONNECTIONS_MAX: usize = 64;
/// Of these, those of one address.
const ADDRESS_CONNECTIONS_MAX: usize = 48;
/// Addresses of unknown that are told apart, and for how long when they ask no more.
const ADDRESSES_MAX: u64 = 10_000;
const ADDRESS_TTL: Duration = Duration::from_secs(60);

/// The connections.
#[derive(Debug)]
pub(super) struct Connections {
    all: Semaphore,
    unknown: Semaphore,
    addresses: Cache<IpAddr, Arc<Semaphore>>,
}

/// A connection that may be used.
#[derive(Debug)]
#[expect(dead_code, reason = "held for their Drop")]
pub(super) struct Connection<'c>(
    Option<SemaphorePermit<'c>>,
    Option<(
        SemaphorePermit<'c>,
        Option<tokio::sync::OwnedSemaphorePermit>,
    )>,
);

impl Default for Connections {
    fn default() -> Self {
        Self {
            all: Semaphore::new(CONNECTIONS_MAX),
            unknown: Semaphore::new(UNKNOWN_CONNECTIONS_MAX),
            addresses: Cache::builder()
                .max_capacity(ADDRESSES_MAX)
                .time_to_idle(ADDRESS_TTL)
                .build(),
        }
    }
}

impl Connections {
    /// Waits for a connection that may be used. Cancel-safe.
    pub(super) async fn take(&self, requester: Requester) -> Connection<'_> {
        let unknown = match requester {
            Requester::Known => None,
            Requester::Unknown(from) => Some(self.take_unknown(from).await),
        };
        // Semaphores here are never closed, which is the only error.
        Connection(self.all.acquire().await.ok(), unknown.flatten())
    }

    async fn take_unknown(
        &self,
        from: IpAddr,
    ) -> Option<(
        SemaphorePermit<'_>,
        Option<tokio::sync::OwnedSemaphorePermit>,
    )> {
        let address = self
            .addresses
            .get_with(from, || Arc::new(Semaphore::new(ADDRESS_CONNECTIONS_MAX)));
        let address = address.acquire_owned().await.ok();
        Some((self.unknown.acquire().await.ok()?, address))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn strangers_leave_connections_to_known_tokens_and_to_strangers_elsewhere() {
        let connections = Connections::default();
        let take = |requester| connections.take(requester).now_or_never();
        let unknown = |last| Requester::Unknown(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));

        let here: Vec<_> = (0..200).map_while(|_| take(unknown(1))).collect();
        let elsewhere: Vec<_> = (0..200).map_while(|_| take(unknown(2))).collect();
        let known: Vec<_> = (0..200).map_while(|_| take(Requester::Known)).collect();

        assert_eq!(here.len(), ADDRESS_CONNECTIONS_MAX);
        assert_eq!(
            elsewhere.len(),
            UNKNOWN_CONNECTIONS_MAX - ADDRESS_CONNECTIONS_MAX
        );
        assert_eq!(known.len(), CONNECTIONS_MAX - UNKNOWN_CONNECTIONS_MAX);
        drop(here);
        assert!(take(unknown(1)).is_some());
    }
}
