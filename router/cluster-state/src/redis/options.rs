//! Addresses of Redis, and settings of the client.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use fred::{
    clients::Client,
    prelude::Config,
    types::{
        Builder, RespVersion,
        config::{
            ReconnectPolicy, Server, ServerConfig, TcpConfig, TlsConnector, UnresponsiveConfig,
        },
    },
};

use runtime::jwt::Secret;

use super::{
    address::Address,
    gitlab_kas::GitLabKas,
    sentinel_relay::{Access, Route, SentinelRelay},
};

/// How long a command may go unanswered before its connection is closed. Longer
/// than a slow Redis needs, so that slowness is no outage.
const UNRESPONSIVE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a command may take in all, reconnections included.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands that may wait to be sent.
const MAX_QUEUED_COMMANDS: usize = 20_000;
/// Invalidations that may wait to be received; beyond these they count as missed.
const MAX_QUEUED_INVALIDATIONS: usize = 8192;
/// Backoff between attempts to connect: first, longest and jitter, in milliseconds.
const RECONNECT_BACKOFF_MS: (u32, u32, u32) = (50, 2000, 50);

/// How to reach a Redis or Valkey, 6.2 or later.
#[derive(Clone)]
pub struct RedisOptions {
    /// The servers.
    pub servers: Servers,
    /// The ACL user, if not the default one.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The number of the database; a cluster has only 0.
    pub database: u8,
    /// The prefix of all keys.
    pub key_prefix: String,
    /// Whether records of GitLab's kas are written and read besides our own.
    pub gitlab_kas: Option<GitLabKas>,
    /// TLS configuration; `None` disables TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The same for sentinels.
    pub sentinel_tls: SentinelTls,
    /// How long dialling may take, with the TLS handshake.
    pub dial_timeout: Duration,
    /// The secret that all replicas share, for signing entries; `None` disables signatures.
    pub secret: Option<Secret>,
}

/// How sentinels are dialled.
#[derive(Debug, Clone, Default)]
pub enum SentinelTls {
    /// As the servers behind them.
    #[default]
    AsRedis,
    /// With TLS of their own; `None` disables it.
    Own(Option<Arc<rustls::ClientConfig>>),
}

/// The servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// One server.
    Single(Address),
    /// One server, through a Unix socket.
    Unix(PathBuf),
    /// A master behind sentinels.
    Sentinel {
        /// The master's name.
        master: String,
        /// The sentinels.
        sentinels: Vec<Address>,
        /// The ACL user at the sentinels; counts with a password only.
        username: Option<String>,
        /// The sentinels' password.
        password: Option<String>,
    },
    /// A cluster; these are its seed nodes.
    Cluster(Vec<Address>),
}

impl std::fmt::Display for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = |addresses: &[Address]| {
            let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            texts.join(",")
        };
        match self {
            Self::Single(address) => write!(f, "Redis at {address}"),
            Self::Unix(path) => write!(f, "Redis at {}", path.display()),
            Self::Sentinel {
                master, sentinels, ..
            } => write!(f, "Redis {master} of the sentinels {}", all(sentinels)),
            Self::Cluster(nodes) => write!(f, "the Redis cluster at {}", all(nodes)),
        }
    }
}

/// Without secrets.
impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOptions")
            .field("servers", &self.servers.to_string())
            .field("username", &self.username)
            .field("database", &self.database)
            .field("key_prefix", &self.key_prefix)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl RedisOptions {
    /// Default options for these servers.
    #[must_use]
    pub fn new(servers: Servers) -> Self {
        Self {
            servers,
            username: None,
            password: None,
            database: 0,
            key_prefix: "gitlab-kas".to_owned(),
            gitlab_kas: None,
            tls: None,
            sentinel_tls: SentinelTls::AsRedis,
            dial_timeout: Duration::from_secs(5),
            secret: None,
        }
    }

    /// The way to a master whose sentinels are dialled otherwise than itself.
    pub(super) fn relay(&self) -> Option<io::Result<SentinelRelay>> {
        let SentinelTls::Own(tls) = &self.sentinel_tls else {
            return None;
        };
        let Servers::Sentinel {
            master,
            sentinels,
            username,
            password,
        } = &self.servers
        else {
            return None;
        };
        Some(SentinelRelay::open(Route {
            master: master.clone(),
            sentinels: sentinels.clone(),
            to_sentinels: Access {
                tls: tls.clone(),
                username: username.clone(),
                password: password.clone(),
            },
            to_master: Access {
                tls: self.tls.clone(),
                username: self.username.clone(),
                password: self.password.clone(),
            },
            dial_timeout: self.dial_timeout,
        }))
    }

    /// A client that is not connected yet.
    pub(super) fn client(
        &self,
        relay: Option<&SentinelRelay>,
    ) -> Result<Client, fred::error::Error> {
        // Who comes by the relay leaves TLS to it.
        let tls = self.tls.as_ref().filter(|_| relay.is_none());
        let config = Config {
            fail_fast: false,
            username: self.username.clone(),
            password: self.password.clone(),
            server: match relay {
                Some(relay) => ServerConfig::Unix { path: relay.path() },
                None => self.servers.config(),
            },
            version: RespVersion::RESP3,
            database: (self.database > 0).then_some(self.database),
            tls: tls.map(|tls| TlsConnector::from(rustls::ClientConfig::clone(tls)).into()),
            ..Config::default()
        };
        let (first, most, jitter) = RECONNECT_BACKOFF_MS;
        let mut policy = ReconnectPolicy::new_exponential(0, first, most, 2);
        policy.set_jitter(jitter);
        Builder::from_config(config)
            .set_policy(policy)
            .with_connection_config(|connection| {
                connection.connection_timeout = self.dial_timeout;
                connection.internal_command_timeout = self.dial_timeout;
                // The table repeats failed writes itself.
                connection.max_command_attempts = 1;
                connection.max_command_buffer_len = MAX_QUEUED_COMMANDS;
                connection.unresponsive = UnresponsiveConfig {
                    max_timeout: Some(UNRESPONSIVE_TIMEOUT),
                    interval: Duration::from_secs(1),
                };
                connection.tcp = TcpConfig {
                    nodelay: Some(true),
                    ..TcpConfig::default()
                };
            })
            .with_performance_config(|performance| {
                performance.default_command_timeout = COMMAND_TIMEOUT;
                performance.broadcast_channel_capacity = MAX_QUEUED_INVALIDATIONS;
            })
            .build()
    }
}

impl Servers {
    fn config(&self) -> ServerConfig {
        let server = |address: &Address| Server::new(address.host.as_str(), address.port);
        match self {
            Self::Single(address) => ServerConfig::Centralized {
                server: server(address),
            },
            Self::Unix(path) => ServerConfig::Unix { path: path.clone() },
            Self::Sentinel {
                master,
                sentinels,
                username,
                password,
            } => ServerConfig::Sentinel {
                hosts: sentinels.iter().map(server).collect(),
                service_name: master.clone(),
                username: username.clone().filter(|_| password.is_some()),
                password: password.clone(),
            },
            Self::Cluster(nodes) => ServerConfig::Clustered {
                hosts: nodes.iter().map(server).collect(),
                policy: Default::default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for (text, host, port) in [
            ("redis:6379", "redis", 6379),
            ("10.0.0.1:1", "10.0.0.1", 1),
            ("[::1]:6379", "::1", 6379),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for text in ["redis", ":6379", "redis:x", "::1:6379", "redis:70000"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
