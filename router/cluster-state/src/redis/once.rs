//! What may be done once by all replicas together, such as using a token.

use std::time::Duration;

use fred::{
    clients::Client,
    interfaces::KeysInterface as _,
    types::{Expiration, SetOptions},
};
use tokio::time::timeout;

use super::{RedisStore, format::Keys, metrics::StoreMetrics};
use crate::store::StoreError;

/// How long an operation may take: somebody waits for it.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(1);

/// Says who is first. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Once {
    client: Client,
    keys: Keys,
    server: String,
    metrics: StoreMetrics,
}

impl RedisStore {
    /// What is done once; it works as long as the store lives.
    #[must_use]
    pub fn once(&self) -> Once {
        Once {
            client: self.client.clone(),
            keys: self.keys.clone(),
            server: self.server.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

impl Once {
    /// Whether nobody has done this before, at whichever replica. It is remembered for `ttl`.
    ///
    /// # Errors
    /// When the store does not answer in time; it may remember nevertheless.
    pub async fn first(&self, name: &str, ttl: Duration) -> Result<bool, StoreError> {
        let key = self.keys.once(name);
        let expiry = Expiration::PX(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let absent = Some(SetOptions::NX);
        let set = self.client.set(key, "1", Some(expiry), absent, false);
        let set: Result<Option<String>, String> = match timeout(OPERATION_TIMEOUT, set).await {
            Ok(set) => set.map_err(|error| error.to_string()),
            Err(_) => Err("it did not answer in time".to_owned()),
        };
        self.metrics.count("once", set.is_ok());
        let set = set.map_err(|why| StoreError(format!("{}: {why}", self.server)))?;
        Ok(set.is_some())
    }
}
