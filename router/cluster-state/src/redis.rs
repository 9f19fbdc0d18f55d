//! A routing store in Redis: single, behind Sentinel, or a cluster.
//!
//! One connection (to each node) carries everything, so that the reports about
//! changed keys come on the connection that read them. The client connects
//! again by itself for ever; commands that were under way when a connection
//! broke fail, and the table asks again.

mod board;
mod channel;
mod format;
mod metrics;
mod once;
mod options;
mod presence;
mod reports;
mod seal;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use fred::{
    clients::Client,
    interfaces::{ClientLike as _, HashesInterface as _, KeysInterface as _},
    types::{ClusterHash, CustomCommand},
};
use futures_util::{FutureExt, future::try_join_all};
use tokio::sync::{broadcast, mpsc};
use tokio_util::task::AbortOnDropHandle;

pub use board::{Board, Posted};
pub use channel::{Channel, Heard};
pub use metrics::StoreMetrics;
pub use once::Once;
pub use options::{Address, AddressError, RedisOptions, Servers};

use crate::{
    id::{AgentId, Owner, ReplicaId},
    presence::{Telling, Told, Wanted},
    store::{Change, Lease, Record, Renewal, RouteStore, StoreError, StoreEvent, StoreFuture},
};
use format::{Keys, LAST_SEEN, LEASES, OWNERS};
use reports::Reports;
use seal::Seal;

/// How long an agent's record outlives its last writing, in seconds: three
/// times as long as it takes until it is written again.
const EXPIRY: i64 = 3 * 24 * 3600;
/// Renewals of the lease after which what the replica tells is kept for longer.
const PRESENCE_BEATS: u64 = 720;
/// Reports on their way to the table.
const EVENTS: usize = 1024;
/// Reports on their way to those who read boards; who misses one looks later.
const BOARDS: usize = 1024;

/// A routing store in Redis.
#[derive(Debug)]
pub struct RedisStore {
    client: Client,
    keys: Keys,
    server: String,
    metrics: StoreMetrics,
    seal: Arc<Seal>,
    /// Whose lease was written here.
    registered: OnceLock<String>,
    events: Mutex<Option<mpsc::Receiver<StoreEvent>>>,
    boards: broadcast::Sender<i64>,
    _connection: AbortOnDropHandle<Result<(), fred::error::Error>>,
    _reports: AbortOnDropHandle<()>,
}

impl RedisStore {
    /// A store that begins to connect, and goes on without end. Ends when dropped.
    ///
    /// # Errors
    /// When the options make no sense together. That nobody answers is no error.
    pub fn connect(options: &RedisOptions) -> Result<Self, StoreError> {
        let server = options.servers.to_string();
        let client = options
            .client()
            .map_err(|error| StoreError(format!("{server}: {error}")))?;
        let keys = Keys::new(&options.key_prefix, options.secret.is_some());
        let metrics = StoreMetrics::default();
        let seal = Arc::new(Seal::new(options.secret.as_ref(), metrics.clone()));
        let (sender, receiver) = mpsc::channel(EVENTS);
        let boards = broadcast::Sender::new(BOARDS);
        let reports = Reports {
            client: client.clone(),
            keys: keys.clone(),
            server: server.clone(),
            metrics: metrics.clone(),
            events: sender,
            boards: boards.clone(),
        };
        let reports = AbortOnDropHandle::new(tokio::spawn(reports.run()));
        Ok(Self {
            _connection: AbortOnDropHandle::new(client.connect()),
            _reports: reports,
            client,
            keys,
            server,
            metrics,
            seal,
            registered: OnceLock::new(),
            events: Mutex::new(Some(receiver)),
            boards,
        })
    }

    /// Its counts.
    #[must_use]
    pub fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    fn done<T>(
        &self,
        operation: &'static str,
        result: Result<T, fred::error::Error>,
    ) -> Result<T, StoreError> {
        self.metrics.count(operation, result.is_ok());
        result.map_err(|error| StoreError(format!("{}: {error}", self.server)))
    }

    /// Whether the store has lost this replica's lease, and so what all replicas had written. Redis reports
    /// that as a change of no key, which the client keeps for itself.
    async fn was_emptied(&self) -> Result<bool, StoreError> {
        let Some(me) = self.registered.get() else {
            return Ok(false);
        };
        let there = self.client.hexists(&self.keys.replicas, me.as_str());
        let there: bool = self.done("read", there.await)?;
        Ok(!there)
    }

    async fn write(&self, me: &Owner, change: &Change) -> Result<(), fred::error::Error> {
        let client = &self.client;
        match change {
            Change::Own(agent) => {
                let key = self.keys.agent(*agent);
                let field = format::write_owner(*agent, me, &self.seal);
                tokio::try_join!(
                    client.hset::<(), _, _>(&key, field),
                    client.expire::<(), _>(&key, EXPIRY, None),
                )?;
            }
            Change::Disown(agent, at) => self.remove(*agent, &me.replica, *at).await?,
            Change::Bury(agent, replica, at) => self.remove(*agent, replica, *at).await?,
        }
        Ok(())
    }

    async fn remove(
        &self,
        agent: AgentId,
        replica: &ReplicaId,
        at: u64,
    ) -> Result<(), fred::error::Error> {
        let client = &self.client;
        let key = self.keys.agent(agent);
        tokio::try_join!(
            client.hdel::<(), _, _>(&key, replica.to_string()),
            client.hset::<(), _, _>(&key, (LAST_SEEN, at.to_string())),
            client.expire::<(), _>(&key, EXPIRY, None),
        )?;
        Ok(())
    }
}

/// The fields of a hash, and whether that are all: about so many are read at most, in one command, however many
/// somebody has put there.
async fn fields(
    client: &Client,
    key: &str,
    most: usize,
) -> Result<(HashMap<String, String>, bool), fred::error::Error> {
    let scan = CustomCommand::new_static("HSCAN", ClusterHash::FirstKey, false);
    // Redis counts names and values.
    let most = (2 * most).to_string();
    let arguments = [key, "0", "COUNT", &most].map(ToOwned::to_owned).to_vec();
    let (next, pairs): (String, Vec<String>) = client.custom(scan, arguments).await?;
    let mut pairs = pairs.into_iter();
    let pair = || Some((pairs.next()?, pairs.next()?));
    Ok((std::iter::from_fn(pair).collect(), next == "0"))
}

impl RouteStore for RedisStore {
    fn renew<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, Renewal> {
        async move {
            let field = (
                lease.replica.to_string(),
                format::write_lease(lease, &self.seal),
            );
            let replicas = &self.keys.replicas;
            if lease.beat.is_multiple_of(PRESENCE_BEATS) {
                let presence = self.keys.presence(&lease.replica);
                // It is for the case that nobody removes the key; there may be none.
                let expiry = self.client.expire::<(), _>(presence, EXPIRY, None);
                self.done("expire", expiry.await)?;
            }
            let renewed = tokio::try_join!(
                self.client.hset::<i64, _, _>(replicas, field),
                fields(&self.client, replicas, LEASES),
            );
            let (added, (leases, _)) = self.done("renew", renewed)?;
            self.registered.get_or_init(|| lease.replica.to_string());
            Ok(Renewal {
                existed: added == 0,
                leases: format::read_leases(leases, &self.seal),
            })
        }
        .boxed()
    }

    fn end_lease<'a>(&'a self, replica: &'a ReplicaId) -> StoreFuture<'a, ()> {
        async move {
            // The lease goes last: a replica that was only frozen and finds it
            // gone tells everything again.
            let ended = async {
                self.client
                    .unlink::<(), _>(self.keys.presence(replica))
                    .await?;
                let field = replica.to_string();
                let replicas = &self.keys.replicas;
                self.client.hdel::<(), _, _>(replicas, field).await
            };
            self.done("end_lease", ended.await)
        }
        .boxed()
    }

    fn apply<'a>(&'a self, me: &'a Owner, changes: &'a [Change]) -> StoreFuture<'a, ()> {
        async move {
            // All are sent at once, in order; in a cluster to whichever node each belongs.
            let writes = changes.iter().map(|change| self.write(me, change));
            let applied = try_join_all(writes).await.map(|_| ());
            self.done("apply", applied)
        }
        .boxed()
    }

    fn read(&self, agent: AgentId) -> StoreFuture<'_, Record> {
        async move {
            let key = self.keys.agent(agent);
            let read = fields(&self.client, &key, OWNERS).await;
            let (fields, whole) = self.done("read", read)?;
            let mut record = format::read_record(agent, fields, &self.seal);
            record.doubtful |= !whole;
            record.doubtful |= record.is_empty() && self.was_emptied().await?;
            Ok(record)
        }
        .boxed()
    }

    fn tell<'a>(&'a self, me: &'a ReplicaId, tellings: &'a [Telling]) -> StoreFuture<'a, ()> {
        async move {
            let key = self.keys.presence(me);
            let told = presence::tell(&self.client, &key, tellings).await;
            self.done("tell", told)
        }
        .boxed()
    }

    fn told<'a>(
        &'a self,
        replicas: &'a [ReplicaId],
        wanted: &'a Wanted,
    ) -> StoreFuture<'a, Vec<Told>> {
        async move {
            let told = presence::told(&self.client, &self.keys, replicas, wanted);
            self.done("told", told.await)
        }
        .boxed()
    }

    fn events(&self) -> Option<mpsc::Receiver<StoreEvent>> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}
