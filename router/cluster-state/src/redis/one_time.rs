//! One-time claims: keys that are set only if they are absent.

use std::time::Duration;

use fred::{
    clients::Client,
    interfaces::KeysInterface as _,
    types::{Expiration, SetOptions},
};
use futures_util::FutureExt as _;

use super::{RedisStore, format::Keys, in_time, metrics::StoreMetrics};
use crate::{one_time::OneTimeClaims, store::StoreFuture};

/// How long a command may take: a request waits for it.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);

/// One-time claims of all replicas.
#[derive(Debug)]
pub(super) struct RedisClaims {
    client: Client,
    keys: Keys,
    server: String,
    metrics: StoreMetrics,
}

impl RedisClaims {
    pub(super) fn new(store: &RedisStore) -> Self {
        Self {
            client: store.client.clone(),
            keys: store.keys.clone(),
            server: store.server.clone(),
            metrics: store.metrics.clone(),
        }
    }
}

impl OneTimeClaims for RedisClaims {
    fn claim<'a>(&'a self, name: &'a str, ttl: Duration) -> StoreFuture<'a, bool> {
        async move {
            let key = self.keys.one_time(name);
            let expiry = Expiration::PX(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
            let absent = Some(SetOptions::NX);
            let set =
                self.client
                    .set::<Option<String>, _, _>(key, "1", Some(expiry), absent, false);
            let set = in_time(&self.server, COMMAND_TIMEOUT, set).await;
            self.metrics.count("once", set.is_ok());
            Ok(set?.is_some())
        }
        .boxed()
    }
}
