//! Cluster pins: one hash, so that a replica reads all with one command when it starts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fred::{clients::Client, error::Error, interfaces::HashesInterface as _};
use futures_util::FutureExt as _;

use super::{RedisStore, fields, format::Keys, in_time, metrics::StoreMetrics, signature::Signer};
use crate::{
    cluster_pins::{ClusterPins, ClusterUid, MAX_PINS},
    id::AgentId,
    store::{StoreError, StoreFuture},
};

/// How long a command may take: an agent's first tunnel waits for it.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// In the place of a pin that was removed, so that no replica writes again what it remembers.
const REMOVED: &str = "";

/// The pins of all replicas.
#[derive(Debug)]
pub(super) struct RedisPins {
    client: Client,
    keys: Keys,
    server: String,
    metrics: StoreMetrics,
    signer: Arc<Signer>,
}

impl RedisPins {
    pub(super) fn new(store: &RedisStore) -> Self {
        Self {
            client: store.client.clone(),
            keys: store.keys.clone(),
            server: store.server.clone(),
            metrics: store.metrics.clone(),
            signer: store.signer.clone(),
        }
    }

    async fn run<T>(
        &self,
        operation: &'static str,
        command: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        let done = in_time(&self.server, COMMAND_TIMEOUT, command).await;
        self.metrics.count(operation, done.is_ok());
        done
    }

    fn verified(&self, agent: AgentId, written: &str) -> Option<ClusterUid> {
        let text = self.signer.read_pin(agent, written)?;
        ClusterUid::parse(text).ok()
    }
}

impl ClusterPins for RedisPins {
    fn all(&self) -> StoreFuture<'_, HashMap<AgentId, Option<ClusterUid>>> {
        async move {
            let read = fields::<String>(&self.client, &self.keys.clusters, MAX_PINS);
            let (fields, _) = self.run("read_pins", read).await?;
            let pins = fields.into_iter().filter_map(|(id, written)| {
                let agent = AgentId(id.parse().ok()?);
                let text = self.signer.read_pin(agent, &written)?;
                let removed = text == REMOVED;
                let pin = ClusterUid::parse(text).ok();
                (removed || pin.is_some()).then_some((agent, pin))
            });
            Ok(pins.take(MAX_PINS).collect())
        }
        .boxed()
    }

    fn read(&self, agent: AgentId) -> StoreFuture<'_, Option<ClusterUid>> {
        async move {
            let key = &self.keys.clusters;
            let read = self
                .client
                .hget::<Option<String>, _, _>(key, agent.to_string());
            let written = self.run("read_pins", read).await?;
            Ok(written.and_then(|written| self.verified(agent, &written)))
        }
        .boxed()
    }

    fn pin_first<'a>(
        &'a self,
        agent: AgentId,
        cluster: &'a ClusterUid,
    ) -> StoreFuture<'a, ClusterUid> {
        async move {
            let (key, field) = (&self.keys.clusters, agent.to_string());
            let value = self.signer.write_pin(agent, cluster.as_str());
            // Pipelined in this order on one connection.
            let pinned = async {
                tokio::try_join!(
                    self.client
                        .hsetnx::<(), _, _, _>(key, &field, value.as_str()),
                    self.client.hget::<Option<String>, _, _>(key, &field),
                )
            };
            let ((), written) = self.run("pin", pinned).await?;
            let pinned = written.and_then(|written| self.verified(agent, &written));
            if let Some(pinned) = pinned {
                return Ok(pinned);
            }
            // A pin that was removed, or an entry that is no replica's: this one replaces it.
            let set = self.client.hset::<(), _, _>(key, (field, value));
            self.run("pin", set).await?;
            Ok(cluster.clone())
        }
        .boxed()
    }

    fn set<'a>(&'a self, agent: AgentId, cluster: Option<&'a ClusterUid>) -> StoreFuture<'a, ()> {
        async move {
            let (key, field) = (&self.keys.clusters, agent.to_string());
            let text = cluster.map_or(REMOVED, ClusterUid::as_str);
            let value = self.signer.write_pin(agent, text);
            let set = self.client.hset::<(), _, _>(key, (field, value));
            self.run("pin", set).await
        }
        .boxed()
    }
}
