//! The section `redis`.

use std::path::PathBuf;

use runtime::{
    listen::{TlsFiles, check_pair, tls_files},
    section,
    yaml::{At, NoEffect, NonEmpty, PositiveSeconds, Setting, YamlError},
};
use serde::{Deserialize, Serialize};

use super::unused::UpstreamToo;

section! {
    /// The shared store of the routing table.
    pub struct Redis {
        /// One server.
        pub server: Option<RedisServer> = None,
        /// Whoever the sentinels name.
        pub sentinel: Option<RedisSentinel> = None,
        /// A cluster. Not among the keys of GitLab's kas.
        pub cluster: Option<RedisCluster> = None,
        /// Whether addresses are paths of Unix sockets.
        pub network: RedisNetwork = RedisNetwork::Tcp,
        /// How long a connection may take to be made.
        pub dial_timeout: PositiveSeconds = PositiveSeconds::new(5),
        /// How long a write may take.
        pub write_timeout: PositiveSeconds = PositiveSeconds::new(3),
        /// What all keys start with.
        pub key_prefix: String = "gitlab-kas".to_owned(),
        /// Whose records are written and read besides our own. Not among the keys of GitLab's kas.
        pub compatibility: RedisCompatibility = RedisCompatibility::None,
        /// The user, empty for the default one.
        pub username: String = String::new(),
        /// The number of the database.
        pub database_index: u32 = 0,
        /// A file with the password, taken byte for byte.
        pub password_file: Option<PathBuf> = None,
        /// TLS, if it is on.
        #[serde(skip_serializing_if = "RedisTls::is_off")]
        pub tls: RedisTls = RedisTls::default(),
        /// Connections kept.
        #[serde(skip_serializing)]
        pub pool_size: NoEffect<u32, UpstreamToo> = NoEffect::new(0),
        /// How long an answer may take.
        #[serde(skip_serializing)]
        pub read_timeout: NoEffect<Option<PositiveSeconds>, UpstreamToo> = NoEffect::new(None),
        /// How long an idle connection is kept.
        #[serde(skip_serializing)]
        pub idle_timeout: NoEffect<Option<PositiveSeconds>, UpstreamToo> = NoEffect::new(None),
    }
    check = check_servers;
}

section! {
    /// One server.
    pub struct RedisServer {
        /// Its `host:port` or socket path.
        pub address: NonEmpty,
    }
}

section! {
    /// Sentinels.
    pub struct RedisSentinel {
        /// The name of the master.
        pub master_name: NonEmpty,
        /// The sentinels.
        pub addresses: Vec<NonEmpty>,
        /// A file with the sentinels' password.
        pub sentinel_password_file: Option<PathBuf> = None,
        /// TLS to the sentinels; without this section they are dialled as Redis is.
        pub tls: Option<RedisTls> = None,
    }
    check = check_addresses;
}

section! {
    /// A cluster.
    pub struct RedisCluster {
        /// Some of its nodes.
        pub addresses: Vec<NonEmpty>,
    }
    check = check_addresses;
}

section! {
    /// TLS to Redis.
    pub struct RedisTls: Default {
        /// Whether it is on.
        pub enabled: bool = false,
        /// A client certificate, if any.
        pub certificate_file: Option<PathBuf> = None,
        /// Its key.
        pub key_file: Option<PathBuf> = None,
        /// A CA besides those of the system.
        pub ca_certificate_file: Option<PathBuf> = None,
    }
    check = check_certificate;
}

/// The kinds of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisNetwork {
    /// TCP.
    #[serde(alias = "")]
    Tcp,
    /// A socket in the file system.
    Unix,
}

impl Setting for RedisNetwork {}

/// Whose records are written and read besides our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum RedisCompatibility {
    /// Nobody's.
    #[serde(rename = "none", alias = "")]
    None,
    /// Those of GitLab's kas 16.5, for a set in which it is a replica too.
    #[serde(rename = "gitlab-16.5")]
    GitLab16_5,
}

impl Setting for RedisCompatibility {}

/// Where Redis is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RedisServers<'a> {
    /// One server.
    Single(&'a RedisServer),
    /// Whoever the sentinels name.
    Sentinel(&'a RedisSentinel),
    /// A cluster.
    Cluster(&'a RedisCluster),
}

impl Redis {
    /// Where it is; `None` unless exactly one form is given.
    #[must_use]
    pub fn servers(&self) -> Option<RedisServers<'_>> {
        match (&self.server, &self.sentinel, &self.cluster) {
            (Some(server), None, None) => Some(RedisServers::Single(server)),
            (None, Some(sentinel), None) => Some(RedisServers::Sentinel(sentinel)),
            (None, None, Some(cluster)) => Some(RedisServers::Cluster(cluster)),
            _ => None,
        }
    }

    fn check_servers(&self, at: &At<'_>) -> Result<(), YamlError> {
        if self.servers().is_none() {
            return Err(at.mistake(
                "redis needs exactly one of the keys `server`, `sentinel` and `cluster`",
            ));
        }
        if self.compatibility == RedisCompatibility::GitLab16_5 && self.cluster.is_some() {
            let key = at.key("compatibility");
            return Err(key.mistake(
                "redis.compatibility is gitlab-16.5, but GitLab's kas 16.5 cannot use a Redis cluster",
            ));
        }
        Ok(())
    }
}

impl RedisSentinel {
    fn check_addresses(&self, at: &At<'_>) -> Result<(), YamlError> {
        check_some(at, &self.addresses)
    }
}

impl RedisCluster {
    fn check_addresses(&self, at: &At<'_>) -> Result<(), YamlError> {
        check_some(at, &self.addresses)
    }
}

fn check_some(at: &At<'_>, addresses: &[NonEmpty]) -> Result<(), YamlError> {
    if addresses.is_empty() {
        let path = at.path();
        return Err(at.mistake(format!("{path}.addresses must not be empty")));
    }
    Ok(())
}

impl RedisTls {
    /// A client certificate, if any.
    #[must_use]
    pub fn client(&self) -> Option<TlsFiles> {
        tls_files(self.certificate_file.as_deref(), self.key_file.as_deref())
    }

    fn is_off(&self) -> bool {
        !self.enabled
    }

    /// Whether connections are the same by both.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self == other || (self.is_off() && other.is_off())
    }

    fn check_certificate(&self, at: &At<'_>) -> Result<(), YamlError> {
        if self.enabled {
            check_pair(
                at,
                self.certificate_file.as_deref(),
                self.key_file.as_deref(),
            )?;
        }
        Ok(())
    }
}
