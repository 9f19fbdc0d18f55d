//! What replicas tell each other about repositories, so that one of them looks
//! after each for all.
//!
//! Losing all of it does no harm: each replica then looks itself.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fred::{
    clients::Client,
    error::Error,
    interfaces::{HashesInterface as _, KeysInterface as _},
    types::Expiration,
};
use tokio::{sync::broadcast, time::timeout};

use super::{
    RedisStore, fields,
    format::{HEAD, Keys, LEASES},
    metrics::StoreMetrics,
    seal::Seal,
};
use crate::{
    id::{AgentId, ReplicaId},
    store::StoreError,
};

/// How long what nobody writes again is kept, in seconds.
const EXPIRY: i64 = 24 * 3600;
/// How long an operation may take: who waits can do without.
const OPERATION: Duration = Duration::from_secs(2);

/// The board, as one replica uses it. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Board {
    client: Client,
    keys: Keys,
    server: String,
    metrics: StoreMetrics,
    seal: Arc<Seal>,
    me: ReplicaId,
    changes: broadcast::Sender<i64>,
}

/// What is on the board about a repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Posted {
    /// The replicas that serve agents of it, this one included, dead ones too.
    pub replicas: Vec<ReplicaId>,
    /// What the one on duty has found out last.
    pub head: Option<String>,
}

impl RedisStore {
    /// The board, for a replica; it works as long as the store lives.
    #[must_use]
    pub fn board(&self, me: ReplicaId) -> Board {
        Board {
            client: self.client.clone(),
            keys: self.keys.clone(),
            server: self.server.clone(),
            metrics: self.metrics.clone(),
            seal: self.seal.clone(),
            me,
            changes: self.boards.clone(),
        }
    }
}

impl Board {
    /// Whose it is.
    #[must_use]
    pub fn me(&self) -> &ReplicaId {
        &self.me
    }

    /// The repositories of projects about which something was posted since they
    /// were last [read](Self::join).
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<i64> {
        self.changes.subscribe()
    }

    /// Says that this replica serves agents of a repository, and reads what is posted.
    ///
    /// # Errors
    /// When the store does not answer in time.
    pub async fn join(&self, project: i64) -> Result<Posted, StoreError> {
        let key = self.keys.repository(project);
        // Saying again what is known would look like a change to the others.
        let read = async {
            let (_, (fields, _)) = tokio::try_join!(
                self.client
                    .hsetnx::<(), _, _, _>(&key, self.me.to_string(), "1"),
                fields(&self.client, &key, LEASES),
            )?;
            Ok(posted(fields, |head| self.seal.read_head(project, &head)))
        };
        self.within("join", read).await
    }

    /// Posts what this replica has found out, and takes down replicas that are gone.
    ///
    /// # Errors
    /// When the store does not answer in time.
    pub async fn post(
        &self,
        project: i64,
        head: &str,
        gone: &[ReplicaId],
    ) -> Result<(), StoreError> {
        let key = self.keys.repository(project);
        let head = self.seal.head(project, head);
        let gone: Vec<_> = gone.iter().map(ToString::to_string).collect();
        let write = async {
            if !gone.is_empty() {
                self.client.hdel::<(), _, _>(&key, gone).await?;
            }
            tokio::try_join!(
                self.client.hset::<(), _, _>(&key, (HEAD, head)),
                self.client.expire::<(), _>(&key, EXPIRY, None),
            )?;
            Ok(())
        };
        self.within("post", write).await
    }

    /// Says that this replica serves no agents of a repository any more.
    ///
    /// # Errors
    /// When the store does not answer in time.
    pub async fn leave(&self, project: i64) -> Result<(), StoreError> {
        let key = self.keys.repository(project);
        let field = self.me.to_string();
        let left = self.client.hdel::<(), _, _>(key, field);
        self.within("leave", left).await
    }

    /// Whether this replica is the first to do what is due for an agent with
    /// this version of its configuration.
    ///
    /// # Errors
    /// When the store does not answer in time.
    pub async fn claim(&self, agent: AgentId, version: &str) -> Result<bool, StoreError> {
        let key = self.keys.configured(agent);
        let expiry = Some(Expiration::EX(EXPIRY));
        let set = self
            .client
            .set::<Option<String>, _, _>(key, version, expiry, None, true);
        let before = self.within("claim", set).await?;
        Ok(before.as_deref() != Some(version))
    }

    /// What was claimed could not be done: another may.
    ///
    /// # Errors
    /// When the store does not answer in time.
    pub async fn disclaim(&self, agent: AgentId) -> Result<(), StoreError> {
        let removed = self.client.del::<(), _>(self.keys.configured(agent));
        self.within("disclaim", removed).await
    }

    async fn within<T>(
        &self,
        operation: &'static str,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        let result = match timeout(OPERATION, run).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("it did not answer in time".to_owned()),
        };
        self.metrics.count(operation, result.is_ok());
        result.map_err(|why| StoreError(format!("{}: {why}", self.server)))
    }
}

fn posted(
    mut fields: HashMap<String, String>,
    read: impl FnOnce(String) -> Option<String>,
) -> Posted {
    let head = fields.remove(HEAD).and_then(read);
    let mut replicas: Vec<_> = fields.keys().map(|id| ReplicaId::new(id)).collect();
    replicas.sort();
    Posted { replicas, head }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_no_replica() {
        let fields = [("kas-1", "1"), (HEAD, "x")].map(|(k, v)| (k.to_owned(), v.to_owned()));

        let posted = posted(fields.into(), Some);

        assert_eq!(posted.replicas, [ReplicaId::new("kas-1")]);
        assert_eq!(posted.head.as_deref(), Some("x"));
    }
}
