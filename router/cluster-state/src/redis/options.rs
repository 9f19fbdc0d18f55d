//! Where Redis is, and how it is talked to.

use std::{path::PathBuf, sync::Arc, time::Duration};

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

/// A command may wait for its answer so long before its connection is given
/// up. Longer than a slow Redis needs, so that slowness is no outage.
const UNRESPONSIVE: Duration = Duration::from_secs(8);
/// How long a command may take in all, reconnections included.
const COMMAND: Duration = Duration::from_secs(10);
/// Commands that may wait to be sent.
const QUEUE: usize = 20_000;
/// Reports that may wait to be heard; more become one that says so.
const REPORTS: usize = 8192;
/// The waits between attempts to connect, in milliseconds, and their jitter.
const RECONNECT: (u32, u32, u32) = (50, 2000, 50);

/// How to reach a Redis or Valkey, 6.2 or later.
#[derive(Clone)]
pub struct RedisOptions {
    /// Which servers.
    pub servers: Servers,
    /// The ACL user, if not the default one.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The number of the database; a cluster has only 0.
    pub database: u8,
    /// What all keys begin with.
    pub key_prefix: String,
    /// TLS with this configuration, if any.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// How long dialling may take, with the TLS handshake.
    pub dial_timeout: Duration,
    /// The secret that all replicas share: what none of them has signed is ignored. Without one nothing is signed.
    pub secret: Option<Secret>,
}

/// Which servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// One server.
    Single(Address),
    /// One server, through a Unix socket.
    Unix(PathBuf),
    /// The master that sentinels know by this name.
    Sentinel {
        /// The master's name.
        master: String,
        /// The sentinels.
        sentinels: Vec<Address>,
        /// The sentinels' password.
        password: Option<String>,
    },
    /// A cluster, of which these nodes are asked first.
    Cluster(Vec<Address>),
}

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of the form host:port")]
pub struct AddressError(String);

impl std::str::FromStr for Address {
    type Err = AddressError;

    /// Reads `host:port`; IPv6 addresses stand in brackets.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() || (host.contains(':') && !text.starts_with('[')) {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port: port.parse().map_err(|_| wrong())?,
        })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
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

/// Secrets stay out.
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
    /// These servers, without anything special.
    #[must_use]
    pub fn new(servers: Servers) -> Self {
        Self {
            servers,
            username: None,
            password: None,
            database: 0,
            key_prefix: "gitlab-kas".to_owned(),
            tls: None,
            dial_timeout: Duration::from_secs(5),
            secret: None,
        }
    }

    /// A client that is not connected yet, and keeps trying once it is told to.
    pub(super) fn client(&self) -> Result<Client, fred::error::Error> {
        let config = Config {
            fail_fast: false,
            username: self.username.clone(),
            password: self.password.clone(),
            server: self.servers.config(),
            version: RespVersion::RESP3,
            database: (self.database > 0).then_some(self.database),
            tls: self
                .tls
                .as_ref()
                .map(|tls| TlsConnector::from(rustls::ClientConfig::clone(tls)).into()),
            ..Config::default()
        };
        let (first, most, jitter) = RECONNECT;
        let mut policy = ReconnectPolicy::new_exponential(0, first, most, 2);
        policy.set_jitter(jitter);
        Builder::from_config(config)
            .set_policy(policy)
            .with_connection_config(|connection| {
                connection.connection_timeout = self.dial_timeout;
                connection.internal_command_timeout = self.dial_timeout;
                // Changes are written again by whoever asked for them.
                connection.max_command_attempts = 1;
                connection.max_command_buffer_len = QUEUE;
                connection.unresponsive = UnresponsiveConfig {
                    max_timeout: Some(UNRESPONSIVE),
                    interval: Duration::from_secs(1),
                };
                connection.tcp = TcpConfig {
                    nodelay: Some(true),
                    ..TcpConfig::default()
                };
            })
            .with_performance_config(|performance| {
                performance.default_command_timeout = COMMAND;
                performance.broadcast_channel_capacity = REPORTS;
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
                password,
            } => ServerConfig::Sentinel {
                hosts: sentinels.iter().map(server).collect(),
                service_name: master.clone(),
                username: None,
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
