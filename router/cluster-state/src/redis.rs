//! A cluster store in Redis: one server, one behind Sentinel, or a cluster.
//!
//! One connection (to each node) carries everything, so that invalidations come
//! on the connection that read the keys. The client reconnects by itself for
//! ever; commands that were under way when a connection broke fail, and the
//! table repeats them.

mod address;
mod channel;
mod cluster_pins;
mod connection_records;
mod diagnosis;
mod events;
mod format;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gitlab_kas;
mod metrics;
mod one_time;
mod options;
mod poll_state;
mod presence;
mod resp;
mod sentinel_relay;
mod signature;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use fred::{
    clients::Client,
    interfaces::{ClientLike as _, HashesInterface as _, KeysInterface as _},
    types::{ClusterHash, CustomCommand, FromValue, Value},
};
use futures_util::{FutureExt, future::try_join_all};
use tokio::{
    sync::{broadcast, mpsc},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

pub use address::{Address, AddressError};
pub use diagnosis::{Diagnosis, DiagnosisError, diagnose};
pub use gitlab_kas::GitLabKas;
pub use metrics::StoreMetrics;
pub use options::{RedisOptions, SentinelTls, Servers};

use crate::{
    channel::Channel,
    cluster_pins::ClusterPins,
    cluster_store::ClusterStore,
    connection_record::ConnectionRecords,
    id::{AgentId, Owner, ReplicaId},
    one_time::OneTimeClaims,
    poll_state::SharedPollState,
    presence::{PresenceEntry, PresenceQuery, PresenceUpdate},
    store::{Lease, Record, Renewal, RouteChange, RouteStore, StoreError, StoreEvent, StoreFuture},
};
use events::EventSource;
use format::{Keys, LAST_SEEN, MAX_LEASES, MAX_OWNERS};
use sentinel_relay::SentinelRelay;
use signature::Signer;

/// Seconds that an agent's record outlives its last write: three refresh
/// intervals.
const RECORD_TTL: i64 = 3 * 24 * 3600;
/// Renewals of the lease after which the TTL of the replica's presence is extended.
const PRESENCE_TTL_BEATS: u64 = 720;
/// Events that may wait for the table.
const EVENT_QUEUE: usize = 1024;
/// Changes of poll records that may wait for a subscriber; one that misses a
/// change polls at its interval.
const POLL_CHANGE_QUEUE: usize = 1024;

/// A cluster store in Redis.
#[derive(Debug)]
pub struct RedisStore {
    client: Client,
    keys: Keys,
    /// Records of GitLab's kas, if they are written and read.
    gitlab_kas: Option<gitlab_kas::Records>,
    server: String,
    metrics: StoreMetrics,
    signer: Arc<Signer>,
    /// The replica whose lease was written through this store.
    registered: OnceLock<String>,
    events: Mutex<Option<mpsc::Receiver<StoreEvent>>>,
    poll_changes: broadcast::Sender<i64>,
    _connection: AbortOnDropHandle<Result<(), fred::error::Error>>,
    _relay: Option<SentinelRelay>,
    _events: AbortOnDropHandle<()>,
}

impl RedisStore {
    /// A store that connects in the background, and reconnects until it is dropped.
    ///
    /// # Errors
    /// When the options contradict each other. A server that does not answer is no error.
    pub fn connect(options: &RedisOptions) -> Result<Self, StoreError> {
        let server = options.servers.to_string();
        let relay = options.relay().transpose();
        let relay = relay.map_err(|error| StoreError::failed(&server, error))?;
        let client = options
            .client(relay.as_ref())
            .map_err(|error| StoreError::failed(&server, error))?;
        let keys = Keys::new(&options.key_prefix, options.secret.is_some());
        let metrics = StoreMetrics::default();
        let signer = Arc::new(Signer::new(options.secret.as_ref(), metrics.clone()));
        let gitlab_kas = options.gitlab_kas.clone();
        let gitlab_kas =
            gitlab_kas.map(|it| gitlab_kas::Records::new(it, &options.key_prefix, signer.clone()));
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        let poll_changes = broadcast::Sender::new(POLL_CHANGE_QUEUE);
        let source = EventSource {
            client: client.clone(),
            keys: keys.clone(),
            gitlab_kas: gitlab_kas.as_ref().map(|it| it.keys().clone()),
            server: server.clone(),
            metrics: metrics.clone(),
            events: sender,
            poll_changes: poll_changes.clone(),
        };
        let source = AbortOnDropHandle::new(tokio::spawn(source.run()));
        Ok(Self {
            _connection: AbortOnDropHandle::new(client.connect()),
            _relay: relay,
            _events: source,
            client,
            keys,
            gitlab_kas,
            server,
            metrics,
            signer,
            registered: OnceLock::new(),
            events: Mutex::new(Some(receiver)),
            poll_changes,
        })
    }

    /// Its metrics.
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
        result.map_err(|error| StoreError::failed(&self.server, error))
    }

    /// Whether this replica's lease is missing, and so everything that replicas had written. Redis reports a
    /// FLUSHALL as an invalidation of no key, which the client does not pass on.
    async fn was_emptied(&self) -> Result<bool, StoreError> {
        let Some(me) = self.registered.get() else {
            return Ok(false);
        };
        let there = self.client.hexists(&self.keys.replicas, me.as_str());
        let there: bool = self.done("read", there.await)?;
        Ok(!there)
    }

    async fn write(&self, me: &Owner, change: &RouteChange) -> Result<(), fred::error::Error> {
        let client = &self.client;
        match change {
            RouteChange::Announce(agent) => {
                let key = self.keys.agent(*agent);
                let field = format::write_owner(*agent, me, &self.signer);
                tokio::try_join!(
                    client.hset::<(), _, _>(&key, field),
                    client.expire::<(), _>(&key, RECORD_TTL, None),
                )?;
                if let Some(records) = &self.gitlab_kas {
                    records.announce(client, *agent, &me.url).await?;
                }
            }
            RouteChange::Retract(agent, at) => {
                if let Some(records) = &self.gitlab_kas {
                    records.retract(client, *agent, &me.url).await?;
                }
                self.remove(*agent, &me.replica, *at).await?
            }
            RouteChange::RemoveDead(agent, replica, at) => {
                self.remove(*agent, replica, *at).await?
            }
        }
        Ok(())
    }

    /// The connections that GitLab's kas reads. Those that this replica has removed and another one of ours has are
    /// written again.
    async fn update_gitlab_kas(
        &self,
        records: &gitlab_kas::Records,
        me: &ReplicaId,
        updates: &[PresenceUpdate],
    ) -> Result<(), fred::error::Error> {
        records.update_connections(&self.client, updates).await?;
        let leaving = records.leaving(updates);
        if leaving.is_empty() {
            return Ok(());
        }
        let (leases, _) = fields(&self.client, self.keys.replicas.as_str(), MAX_LEASES).await?;
        let leases = format::read_leases(leases, &self.signer).into_iter();
        let others = leases.map(|lease| lease.replica).filter(|it| it != me);
        let others: Vec<_> = others.collect();
        let query = PresenceQuery::Agents(leaving);
        let held = self.presence_of(&others, &query).await?;
        records.restore(&self.client, &held).await
    }

    async fn presence_of(
        &self,
        replicas: &[ReplicaId],
        query: &PresenceQuery,
    ) -> Result<Vec<PresenceEntry>, fred::error::Error> {
        presence::find(&self.client, &self.keys, &self.signer, replicas, query).await
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
            client.hset::<(), _, _>(&key, (LAST_SEEN, self.signer.write_last_seen(agent, at))),
            client.expire::<(), _>(&key, RECORD_TTL, None),
        )?;
        Ok(())
    }
}

/// The fields of a hash, and whether these are all: reads about `most` in one command, however large the hash
/// was made.
async fn fields<T: FromValue + Eq + Hash>(
    client: &Client,
    key: impl Into<Value>,
    most: usize,
) -> Result<(HashMap<T, T>, bool), fred::error::Error> {
    let scan = CustomCommand::new_static("HSCAN", ClusterHash::FirstKey, false);
    // Redis counts names and values.
    let most = (2 * most).to_string();
    let arguments: Vec<Value> = vec![key.into(), "0".into(), "COUNT".into(), most.into()];
    let (next, pairs): (String, Vec<T>) = client.custom(scan, arguments).await?;
    let mut pairs = pairs.into_iter();
    let pair = || Some((pairs.next()?, pairs.next()?));
    Ok((std::iter::from_fn(pair).collect(), next == "0"))
}

impl RouteStore for RedisStore {
    fn renew<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, Renewal> {
        async move {
            let field = (
                lease.replica.to_string(),
                format::write_lease(lease, &self.signer),
            );
            let replicas = &self.keys.replicas;
            if lease.beat.is_multiple_of(PRESENCE_TTL_BEATS) {
                let presence = self.keys.presence(&lease.replica);
                // In case that no replica removes the key. There may be none.
                let expiry = self.client.expire::<(), _>(presence, RECORD_TTL, None);
                self.done("expire", expiry.await)?;
            }
            let renewed = tokio::try_join!(
                self.client.hset::<i64, _, _>(replicas, field),
                fields(&self.client, replicas.as_str(), MAX_LEASES),
            );
            let (added, (leases, _)) = self.done("renew", renewed)?;
            self.registered.get_or_init(|| lease.replica.to_string());
            Ok(Renewal {
                existed: added == 0,
                leases: format::read_leases(leases, &self.signer),
            })
        }
        .boxed()
    }

    fn end_lease<'a>(&'a self, replica: &'a ReplicaId) -> StoreFuture<'a, ()> {
        async move {
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

    fn apply<'a>(&'a self, me: &'a Owner, changes: &'a [RouteChange]) -> StoreFuture<'a, ()> {
        async move {
            // Pipelined in order; in a cluster to the node of each key.
            let writes = changes.iter().map(|change| self.write(me, change));
            let applied = try_join_all(writes).await.map(|_| ());
            self.done("apply", applied)
        }
        .boxed()
    }

    fn read(&self, agent: AgentId) -> StoreFuture<'_, Record> {
        async move {
            let key = self.keys.agent(agent);
            let read = async {
                let own = fields(&self.client, key.as_str(), MAX_OWNERS);
                let Some(records) = &self.gitlab_kas else {
                    return Ok((own.await?, None));
                };
                let (own, foreign) = tokio::try_join!(own, records.owners(&self.client, agent))?;
                Ok((own, Some(foreign)))
            };
            let ((fields, whole), foreign) = self.done("read", read.await)?;
            let mut record = format::read_record(agent, fields, &self.signer);
            record.incomplete |= !whole;
            if let Some((foreign, whole)) = foreign {
                record.incomplete |= !whole || (record.owners.is_empty() && foreign.is_empty());
                record.foreign = foreign;
            }
            record.incomplete |= record.is_empty() && self.was_emptied().await?;
            Ok(record)
        }
        .boxed()
    }

    fn update_presence<'a>(
        &'a self,
        me: &'a ReplicaId,
        updates: &'a [PresenceUpdate],
    ) -> StoreFuture<'a, ()> {
        async move {
            let place = presence::Place {
                keys: &self.keys,
                signer: &self.signer,
                replica: me,
            };
            let updated = async {
                presence::update(&self.client, place, updates).await?;
                match &self.gitlab_kas {
                    Some(records) => self.update_gitlab_kas(records, me, updates).await,
                    None => Ok(()),
                }
            };
            self.done("update_presence", updated.await)
        }
        .boxed()
    }

    fn find_presence<'a>(
        &'a self,
        replicas: &'a [ReplicaId],
        query: &'a PresenceQuery,
    ) -> StoreFuture<'a, Vec<PresenceEntry>> {
        async move {
            let found = async {
                let mut found = self.presence_of(replicas, query).await?;
                if let Some(records) = &self.gitlab_kas {
                    found.append(&mut records.find(&self.client, query).await?);
                }
                Ok(found)
            };
            self.done("find_presence", found.await)
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

impl ClusterStore for RedisStore {
    fn channel(&self, name: &'static str) -> Arc<dyn Channel> {
        Arc::new(channel::RedisChannel::new(self, name))
    }

    fn poll_state(&self, me: ReplicaId) -> Arc<dyn SharedPollState> {
        Arc::new(poll_state::RedisPollState::new(self, me))
    }

    fn one_time_claims(&self) -> Arc<dyn OneTimeClaims> {
        Arc::new(one_time::RedisClaims::new(self))
    }

    fn connection_records(&self) -> Arc<dyn ConnectionRecords> {
        Arc::new(connection_records::RedisRecords::new(self))
    }

    fn cluster_pins(&self) -> Arc<dyn ClusterPins> {
        Arc::new(cluster_pins::RedisPins::new(self))
    }
}

/// The outcome of a command that was given so long.
async fn in_time<T>(
    server: &str,
    limit: Duration,
    command: impl Future<Output = Result<T, fred::error::Error>>,
) -> Result<T, StoreError> {
    match timeout(limit, command).await {
        Ok(done) => done.map_err(|error| StoreError::failed(server, error)),
        Err(_) => Err(StoreError::Timeout(limit)),
    }
}
