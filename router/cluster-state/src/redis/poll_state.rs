//! The shared poll state: a hash for each repository.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fred::{
    clients::Client,
    error::Error,
    interfaces::{HashesInterface as _, KeysInterface as _},
    types::Expiration,
};
use futures_util::FutureExt as _;
use tokio::sync::broadcast;

use super::{
    RedisStore, fields,
    format::{HEAD, Keys, MAX_LEASES},
    in_time,
    metrics::StoreMetrics,
    signature::Signer,
};
use crate::{
    id::{AgentId, ReplicaId},
    poll_state::{PollRecord, SharedPollState},
    store::{StoreError, StoreFuture},
};

/// Seconds that a record outlives its last write.
const RECORD_TTL: i64 = 24 * 3600;
/// How long a command may take: without an answer a replica polls by itself.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// The shared poll state, as one replica uses it.
#[derive(Debug)]
pub(super) struct RedisPollState {
    client: Client,
    keys: Keys,
    server: String,
    metrics: StoreMetrics,
    signer: Arc<Signer>,
    me: ReplicaId,
    changes: broadcast::Sender<i64>,
}

impl RedisPollState {
    pub(super) fn new(store: &RedisStore, me: ReplicaId) -> Self {
        Self {
            client: store.client.clone(),
            keys: store.keys.clone(),
            server: store.server.clone(),
            metrics: store.metrics.clone(),
            signer: store.signer.clone(),
            me,
            changes: store.poll_changes.clone(),
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
}

impl SharedPollState for RedisPollState {
    fn me(&self) -> &ReplicaId {
        &self.me
    }

    fn changes(&self) -> broadcast::Receiver<i64> {
        self.changes.subscribe()
    }

    fn join(&self, project: i64) -> StoreFuture<'_, PollRecord> {
        async move {
            let key = self.keys.repository(project);
            // HSETNX, since setting the same value again would look like a change to the others.
            let read = async {
                let (_, (fields, _)) = tokio::try_join!(
                    self.client
                        .hsetnx::<(), _, _, _>(&key, self.me.to_string(), "1"),
                    fields(&self.client, &key, MAX_LEASES),
                )?;
                Ok(record(fields, |head| {
                    let head = self.signer.read_head(project, &head);
                    head.map(str::to_owned)
                }))
            };
            self.run("join", read).await
        }
        .boxed()
    }

    fn post<'a>(
        &'a self,
        project: i64,
        head: &'a str,
        gone: &'a [ReplicaId],
    ) -> StoreFuture<'a, ()> {
        async move {
            let key = self.keys.repository(project);
            let head = self.signer.write_head(project, head);
            let gone: Vec<_> = gone.iter().map(ToString::to_string).collect();
            let write = async {
                if !gone.is_empty() {
                    self.client.hdel::<(), _, _>(&key, gone).await?;
                }
                tokio::try_join!(
                    self.client.hset::<(), _, _>(&key, (HEAD, head)),
                    self.client.expire::<(), _>(&key, RECORD_TTL, None),
                )?;
                Ok(())
            };
            self.run("post", write).await
        }
        .boxed()
    }

    fn leave(&self, project: i64) -> StoreFuture<'_, ()> {
        async move {
            let key = self.keys.repository(project);
            let left = self.client.hdel::<(), _, _>(key, self.me.to_string());
            self.run("leave", left).await
        }
        .boxed()
    }

    fn claim<'a>(&'a self, agent: AgentId, version: &'a str) -> StoreFuture<'a, bool> {
        async move {
            let key = self.keys.configured(agent);
            let expiry = Some(Expiration::EX(RECORD_TTL));
            let set = self
                .client
                .set::<Option<String>, _, _>(key, version, expiry, None, true);
            let before = self.run("claim", set).await?;
            Ok(before.as_deref() != Some(version))
        }
        .boxed()
    }

    fn disclaim(&self, agent: AgentId) -> StoreFuture<'_, ()> {
        async move {
            let removed = self.client.del::<(), _>(self.keys.configured(agent));
            self.run("disclaim", removed).await
        }
        .boxed()
    }
}

fn record(
    mut fields: HashMap<String, String>,
    read_head: impl FnOnce(String) -> Option<String>,
) -> PollRecord {
    let head = fields.remove(HEAD).and_then(read_head);
    let mut replicas: Vec<_> = fields.keys().map(|id| ReplicaId::new(id)).collect();
    replicas.sort();
    PollRecord { replicas, head }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_no_replica() {
        let fields = [("kas-1", "1"), (HEAD, "x")].map(|(k, v)| (k.to_owned(), v.to_owned()));

        let record = record(fields.into(), Some);

        assert_eq!(record.replicas, [ReplicaId::new("kas-1")]);
        assert_eq!(record.head.as_deref(), Some("x"));
    }
}
