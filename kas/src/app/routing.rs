//! The state that replicas share: in memory, or in Redis.

use std::{sync::Arc, time::Duration};

use agent_gateway::{GitLabConnections, events};
use anyhow::{Context, bail};
use cluster_state::{
    Channel, ClusterPins, ClusterStore, ConnectionRecords, OneTimeClaims, Owner, RoutingTable,
    SharedTable, TableSettings,
    memory::MemoryStore,
    redis::{Address, GitLabKas, RedisOptions, RedisStore, SentinelTls, Servers},
    urls,
};
use control_plane::{
    gitlab::PollSharing,
    notifications::{self, Notifications},
};
use prometheus_client::registry::Registry as Metrics;
use runtime::{
    tls::{ClientTls, ClientTlsOptions, Identity},
    yaml::NonEmpty,
};

use crate::{
    config::{Config, Redis, RedisCompatibility, RedisNetwork, RedisServers, RedisTls},
    numbers,
    replica::PeerSettings,
    version,
};

/// What replicas share through a store, or its equivalent within one process.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) table: Arc<dyn RoutingTable>,
    pub(crate) notifications: Notifications,
    /// How replicas share the polling of repositories; `None`: each polls by itself.
    pub(crate) sharing: Option<PollSharing>,
    /// The channel for clusters' events; `None` keeps them in the process.
    pub(crate) events: Option<Arc<dyn Channel>>,
    /// One-time claims of all replicas; `None` keeps them in the process.
    pub(crate) one_time: Option<Arc<dyn OneTimeClaims>>,
    /// What happens to agents' connections.
    pub(crate) records: Arc<dyn ConnectionRecords>,
    /// Which cluster each agent belongs to.
    pub(crate) pins: Arc<dyn ClusterPins>,
    /// The channel for changes of that; `None` keeps them in the process.
    pub(crate) pin_changes: Option<Arc<dyn Channel>>,
}

impl Shared {
    /// A table within one process.
    pub(crate) fn alone(store: &MemoryStore, me: &Owner) -> Self {
        Self {
            table: Arc::new(store.table(me.clone())),
            records: store.connection_records(),
            pins: store.cluster_pins(),
            pin_changes: None,
            notifications: Notifications::new(None),
            sharing: None,
            events: None,
            one_time: None,
        }
    }

    /// Everything through a store.
    fn through(
        store: Arc<dyn ClusterStore>,
        me: &Owner,
        peers: &PeerSettings,
        settings: TableSettings,
        metrics: &mut Metrics,
    ) -> Self {
        let notifications = Notifications::new(Some(store.channel(notifications::CHANNEL)));
        let events = store.channel(events::CHANNEL);
        let polls = store.poll_state(me.replica.clone());
        let one_time = store.one_time_claims();
        let records = store.connection_records();
        let pins = store.cluster_pins();
        let pin_changes = store.channel(agent_gateway::CLUSTER_PINS_CHANNEL);
        let table = SharedTable::start(
            store,
            Arc::new(peers.clone()),
            me.clone(),
            version::VERSION,
            settings,
        );
        numbers::register_table(metrics, &table);
        let members = table.clone();
        let live = Arc::new(move || members.ring());
        Self {
            table,
            notifications,
            sharing: Some(PollSharing { polls, live }),
            events: Some(events),
            one_time: Some(one_time),
            records,
            pins,
            pin_changes: Some(pin_changes),
        }
    }
}

/// The configured table.
pub(super) fn table(
    config: &Config,
    me: &Owner,
    peers: Option<&PeerSettings>,
    metrics: &mut Metrics,
) -> anyhow::Result<Shared> {
    let Some(redis) = &config.redis else {
        tracing::info!("no redis section: the routing table is in memory, for a single replica");
        return Ok(Shared::alone(&MemoryStore::default(), me));
    };
    let Some(peers) = peers else {
        bail!(
            "the section redis is for several replicas, and those need the section private_api to reach each other: add private_api.listen.address and private_api.listen.authentication_secret_file, or remove redis"
        );
    };
    let mut options = options(redis)?;
    if redis.compatibility == RedisCompatibility::GitLab16_5 {
        let only_tls = urls(&me.url).all(|url| url.starts_with("grpcs:"));
        tracing::info!(
            only_tls,
            "writing and reading the records of GitLab's kas 16.5 in Redis, which are not signed"
        );
        options.gitlab_kas = Some(GitLabKas {
            connections: Arc::new(GitLabConnections),
            only_tls,
        });
    }
    shared(&options, me, peers, metrics)
}

/// A table in this Redis, for replicas that reach each other with these settings.
pub(crate) fn shared(
    options: &RedisOptions,
    me: &Owner,
    peers: &PeerSettings,
    metrics: &mut Metrics,
) -> anyhow::Result<Shared> {
    let options = RedisOptions {
        secret: Some(peers.tokens.secret().clone()),
        ..options.clone()
    };
    let store = RedisStore::connect(&options).context("redis")?;
    store.metrics().register(metrics);
    let mut settings = TableSettings::default();
    if options.gitlab_kas.is_some() {
        settings.refresh_interval = GitLabKas::REFRESH_INTERVAL;
        settings.presence_refresh_interval = Some(GitLabKas::REFRESH_INTERVAL);
    }
    Ok(Shared::through(
        Arc::new(store),
        me,
        peers,
        settings,
        metrics,
    ))
}

/// Whether a start would take the section.
pub(super) fn check(redis: &Redis) -> anyhow::Result<()> {
    options(redis).map(drop)
}

/// How the section is dialled.
pub(crate) fn options(redis: &Redis) -> anyhow::Result<RedisOptions> {
    let servers = redis.servers().context("redis: it names no server")?;
    let servers = match servers {
        RedisServers::Single(server) if redis.network == RedisNetwork::Unix => {
            Servers::Unix((&server.address.0).into())
        }
        RedisServers::Single(server) => {
            let address = server.address.0.parse();
            Servers::Single(address.context("redis.server.address")?)
        }
        RedisServers::Sentinel(sentinel) => Servers::Sentinel {
            master: sentinel.master_name.0.clone(),
            sentinels: addresses_of(&sentinel.addresses).context("redis.sentinel.addresses")?,
            username: username(redis),
            password: secret(
                sentinel.sentinel_password_file.as_deref(),
                "redis.sentinel.sentinel_password_file",
            )?,
        },
        RedisServers::Cluster(cluster) => {
            let addresses = addresses_of(&cluster.addresses);
            Servers::Cluster(addresses.context("redis.cluster.addresses")?)
        }
    };
    let database = u8::try_from(redis.database_index).map_err(|_| {
        anyhow::anyhow!(
            "redis.database_index is {}, it must be at most 255",
            redis.database_index
        )
    })?;
    if database > 0 && matches!(servers, Servers::Cluster(_)) {
        bail!("redis.database_index is {database}, but a Redis cluster has only database 0");
    }
    Ok(RedisOptions {
        servers,
        username: username(redis),
        password: secret(redis.password_file.as_deref(), "redis.password_file")?,
        database,
        key_prefix: redis.key_prefix.clone(),
        gitlab_kas: None,
        tls: tls(&redis.tls).context("redis.tls")?,
        sentinel_tls: sentinel_tls(redis)?,
        dial_timeout: redis.dial_timeout.0.max(Duration::from_millis(1)),
        secret: None,
    })
}

/// Also for sentinels, as with GitLab's kas.
fn username(redis: &Redis) -> Option<String> {
    Some(redis.username.clone()).filter(|name| !name.is_empty())
}

fn sentinel_tls(redis: &Redis) -> anyhow::Result<SentinelTls> {
    let own = redis.sentinel.as_ref().and_then(|it| it.tls.as_ref());
    let Some(own) = own.filter(|own| !own.is_same(&redis.tls)) else {
        return Ok(SentinelTls::AsRedis);
    };
    Ok(SentinelTls::Own(tls(own).context("redis.sentinel.tls")?))
}

fn tls(tls: &RedisTls) -> anyhow::Result<Option<Arc<rustls::ClientConfig>>> {
    if !tls.enabled {
        return Ok(None);
    }
    let client = tls.client().map(|files| Identity {
        certificate: files.certificate_file,
        key: files.key_file,
    });
    let tls = ClientTls::load(&ClientTlsOptions {
        ca_files: tls.ca_certificate_file.iter().cloned().collect(),
        identity: client,
        ..ClientTlsOptions::default()
    });
    Ok(Some(tls?.config(&[])))
}

fn addresses_of(texts: &[NonEmpty]) -> anyhow::Result<Vec<Address>> {
    let addresses = texts.iter().map(|text| text.0.parse());
    Ok(addresses.collect::<Result<_, _>>()?)
}

/// A password file's content, byte for byte as GitLab's kas takes it.
fn secret(file: Option<&std::path::Path>, key: &str) -> anyhow::Result<Option<String>> {
    let Some(file) = file else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{key}: cannot read {}", file.display()))?;
    Ok(Some(text))
}
