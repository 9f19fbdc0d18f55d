//! The section `agent`.

use std::path::PathBuf;

use runtime::{
    section,
    yaml::{At, Mistake, NoEffect, PositiveSeconds, Seconds, Setting},
};
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    AgentConfiguration, Events, Network, Origin, ResponseHeader,
    listen::listens,
    observability::check_url_path,
    unused::{Leases, NoManifests, RemoteDevelopment, UpstreamToo},
};

section! {
    /// What concerns agents.
    pub struct Agent: Default {
        /// Where agents connect.
        pub listen: AgentListen = AgentListen::default(),
        /// How agents' configuration is polled.
        pub configuration: AgentConfiguration = AgentConfiguration::default(),
        /// Limits of manifest delivery.
        pub gitops: NoEffect<Gitops, NoManifests> = NoEffect::new(Gitops::default()),
        /// Agents that kas dials.
        pub receptive_agent: ReceptiveAgent = ReceptiveAgent::default(),
        /// How long an agent's identity is remembered; zero does not remember.
        pub info_cache_ttl: Seconds = Seconds::new(300),
        /// How long a refused token is remembered.
        pub info_cache_error_ttl: PositiveSeconds = PositiveSeconds::new(60),
        /// How long a registration of an agent would count.
        pub redis_conn_info_ttl: NoEffect<Seconds, Leases> = NoEffect::new(Seconds::new(300)),
        /// How often it would be renewed.
        pub redis_conn_info_refresh: NoEffect<Seconds, Leases> = NoEffect::new(Seconds::new(240)),
        /// How often expired ones would be swept.
        pub redis_conn_info_gc: NoEffect<Seconds, Leases> = NoEffect::new(Seconds::new(600)),
        /// Watches of clusters' objects.
        pub graph: Graph = Graph::default(),
        /// The Kubernetes API proxy; `None` leaves it off.
        pub kubernetes_api: Option<KubernetesApi> = None,
        /// Events of agents' clusters; `None` leaves them off.
        pub events: Option<Events> = None,
        /// Workspaces; nothing reads it in GitLab's kas either.
        #[serde(skip_serializing)]
        pub remote_development: NoEffect<RemoteDevelopment, UpstreamToo> =
            NoEffect::new(RemoteDevelopment::default()),
    }
    check = check_registrations;
}

section! {
    /// Where agents connect.
    pub struct AgentListen: Default {
        /// The kind of socket.
        pub network: Network = Network::default(),
        /// The socket.
        pub address: String = Self::DEFAULT_ADDRESS.to_owned(),
        /// The certificate, for TLS.
        pub certificate_file: Option<PathBuf> = None,
        /// Its key.
        pub key_file: Option<PathBuf> = None,
        /// Whether gRPC inside WebSocket is served beside native gRPC.
        pub websocket: bool = true,
        /// Whether a load balancer gives the client's address by the PROXY protocol.
        pub proxy_protocol: bool = false,
        /// How many new connections a token may make in a minute.
        pub connections_per_token_per_minute: u32 = 40_000,
        /// After this time a connection is replaced.
        pub max_connection_age: PositiveSeconds = PositiveSeconds::new(7200),
        /// How long to accept on after the signal to stop.
        pub listen_grace_period: PositiveSeconds = PositiveSeconds::new(5),
        /// How many connections are asked to leave in a second when the replica drains; more only if they could
        /// not all be asked in time.
        pub drain_connections_per_second: u32 = 200,
    }
    check = check_listener;
}
listens!(AgentListen, "127.0.0.1:8150");

section! {
    /// Limits of manifest delivery.
    pub struct Gitops: Default {
        /// How often a repository is polled.
        pub poll_period: PositiveSeconds = PositiveSeconds::new(300),
        /// How long a project's place is remembered.
        pub project_info_cache_ttl: Seconds = Seconds::new(300),
        /// How long a failure to find it is remembered.
        pub project_info_cache_error_ttl: PositiveSeconds = PositiveSeconds::new(60),
        /// Largest manifest in bytes.
        pub max_manifest_file_size: u32 = 5 * 1024 * 1024,
        /// All manifests together, in bytes.
        pub max_total_manifest_file_size: u32 = 20 * 1024 * 1024,
        /// Most paths of a request.
        pub max_number_of_paths: u32 = 100,
        /// Most files visited under a path.
        pub max_number_of_files: u32 = 1000,
    }
}

section! {
    /// Agents that kas dials.
    pub struct ReceptiveAgent: Default {
        /// How often GitLab is asked which agents are to be dialled.
        pub poll_period: PositiveSeconds = PositiveSeconds::new(300),
    }
}

section! {
    /// Watches of clusters' objects. Not among the keys of GitLab's kas.
    pub struct Graph: Default {
        /// Whether they are served.
        pub enabled: bool = true,
    }
}

section! {
    /// The Kubernetes API proxy.
    pub struct KubernetesApi: Default {
        /// Where users connect.
        pub listen: KubernetesApiListen = KubernetesApiListen::default(),
        /// The path it is served under; ends in `/`.
        pub url_path_prefix: PathPrefix = PathPrefix("/".to_owned()),
        /// The origins whose pages may use cookies and WebSocket tokens; without any, GitLab's, or without a GitLab
        /// the host that is called. Not among the keys of GitLab's kas.
        pub allowed_origins: Vec<Origin> = Vec::new(),
        /// Headers that clusters' answers may carry besides those of Kubernetes. Not among the keys of GitLab's kas.
        pub response_headers: Vec<ResponseHeader> = Vec::new(),
        /// How long a permission is remembered; zero does not remember.
        pub allowed_agent_cache_ttl: Seconds = Seconds::new(60),
        /// How long a refusal is remembered.
        pub allowed_agent_cache_error_ttl: PositiveSeconds = PositiveSeconds::new(10),
        /// The secret of tokens for browsers' WebSockets; without it none are given.
        pub websocket_token_secret_file: Option<PathBuf> = None,
    }
    check = check_prefix;
}

section! {
    /// Where users connect.
    pub struct KubernetesApiListen: Default {
        /// The kind of socket.
        pub network: Network = Network::default(),
        /// The socket.
        pub address: String = Self::DEFAULT_ADDRESS.to_owned(),
        /// The certificate, for TLS.
        pub certificate_file: Option<PathBuf> = None,
        /// Its key.
        pub key_file: Option<PathBuf> = None,
        /// How long to accept on after the signal to stop.
        pub listen_grace_period: PositiveSeconds = PositiveSeconds::new(5),
        /// How long to wait for requests in flight after that.
        pub shutdown_grace_period: PositiveSeconds = PositiveSeconds::new(3600),
    }
    check = check_listener;
}
listens!(KubernetesApiListen, "0.0.0.0:8154");

/// A path that URLs start with, as far as a `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathPrefix(pub String);

impl<'de> Deserialize<'de> for PathPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut path = String::deserialize(deserializer)?;
        if path.starts_with('/') && !path.ends_with('/') {
            path.push('/');
        }
        Ok(Self(path))
    }
}

impl Setting for PathPrefix {
    fn is_given(&self) -> bool {
        !self.0.is_empty()
    }
}

impl KubernetesApi {
    fn check_prefix(&self, at: &At<'_>) -> Result<(), Mistake> {
        check_url_path(&at.key("url_path_prefix"), &self.url_path_prefix.0)
    }
}

impl Agent {
    fn check_registrations(&self, at: &At<'_>) -> Result<(), Mistake> {
        let (ttl, refresh) = (
            at.key("redis_conn_info_ttl"),
            at.key("redis_conn_info_refresh"),
        );
        let culprit = [refresh, ttl].into_iter().find(At::is_given);
        match culprit {
            Some(culprit)
                if self.redis_conn_info_refresh.get() >= self.redis_conn_info_ttl.get() =>
            {
                Err(culprit.mistake(
                    "agent.redis_conn_info_refresh must be smaller than agent.redis_conn_info_ttl",
                ))
            }
            Some(_) | None => Ok(()),
        }
    }
}
