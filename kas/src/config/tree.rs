//! The resolved tree: what the rest of the process sees of its configuration.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use agent_gateway::config::{Events, Webhook};
pub use control_plane::config::{GitLab, Gitaly, RateLimit};
use http::HeaderName;

use super::{LogLevel, Secret};

/// The configuration of a replica.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where agents, tokens and access rules come from.
    pub control_plane: ControlPlaneConfig,
    /// What concerns agents.
    pub agent: Agent,
    /// Logs, metrics, probes, traces.
    pub observability: Observability,
    /// Limits of calls to Gitaly.
    pub gitaly: Gitaly,
    /// The shared routing table; without it a replica stands alone.
    pub redis: Option<Redis>,
    /// The API that GitLab calls.
    pub api: Option<ApiListen>,
    /// The API that other replicas call.
    pub private_api: Option<PrivateApiListen>,
}

/// Which control plane a replica uses.
#[derive(Debug, Clone, PartialEq)]
pub enum ControlPlaneConfig {
    /// The embedded one.
    Standalone {
        /// Its file of agents, users and rules.
        file: PathBuf,
    },
    /// A GitLab.
    GitLab(GitLab),
}

/// What a listener is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// The kind of socket.
    pub network: Network,
    /// `host:port`, or a path for [`Network::Unix`].
    pub address: String,
}

/// The kinds of sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// TCP over IPv4 or IPv6.
    #[default]
    Tcp,
    /// TCP over IPv4 only.
    Tcp4,
    /// TCP over IPv6 only.
    Tcp6,
    /// A socket in the file system.
    Unix,
}

impl ListenAddress {
    /// The address as `host:port` with an empty host meaning all interfaces.
    #[must_use]
    pub fn host_port(&self) -> String {
        if self.address.starts_with(':') {
            let host = if self.network == Network::Tcp4 {
                "0.0.0.0"
            } else {
                "[::]"
            };
            format!("{host}{}", self.address)
        } else {
            self.address.clone()
        }
    }

    /// The socket address, when the host is given as a number.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.host_port().parse().ok()
    }
}

/// A certificate and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub certificate_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// What concerns agents.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Where agents connect.
    pub listen: AgentListen,
    /// How agents' configuration is polled.
    pub configuration: AgentConfiguration,
    /// Limits of manifest delivery.
    pub gitops: Gitops,
    /// How often GitLab is asked which agents are to be dialled.
    pub receptive_poll_period: Duration,
    /// How long an agent's identity is remembered; zero does not remember.
    pub info_cache_ttl: Duration,
    /// How long a refused token is remembered.
    pub info_cache_error_ttl: Duration,
    /// How long a registration of an agent counts.
    pub redis_conn_info_ttl: Duration,
    /// How often it is renewed.
    pub redis_conn_info_refresh: Duration,
    /// How often expired ones are swept.
    pub redis_conn_info_gc: Duration,
    /// The Kubernetes API proxy; `None` leaves it off.
    pub kubernetes_api: Option<KubernetesApi>,
    /// Events of agents' clusters; `None` leaves them off.
    pub events: Option<Events>,
    /// Whether watches of clusters' objects are served.
    pub graph: bool,
}

/// Where agents connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentListen {
    /// The socket.
    pub address: ListenAddress,
    /// Whether gRPC inside WebSocket is served beside native gRPC.
    pub websocket: bool,
    /// TLS, if any.
    pub tls: Option<TlsFiles>,
    /// Whether a load balancer tells the client's address by the PROXY protocol.
    pub proxy_protocol: bool,
    /// How many new connections a token may make in a minute.
    pub connections_per_token_per_minute: u32,
    /// How many connections are asked to leave in a second when the replica
    /// drains; more only if they could not all be told in time.
    pub drain_connections_per_second: u32,
    /// After this time a connection is replaced.
    pub max_connection_age: Duration,
    /// How long to accept on after the signal to stop.
    pub listen_grace_period: Duration,
}

/// How agents' configuration is polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfiguration {
    /// How often.
    pub poll_period: Duration,
    /// Largest file in bytes.
    pub max_configuration_file_size: u32,
}

/// Limits of manifest delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gitops {
    /// How often a repository is polled.
    pub poll_period: Duration,
    /// How long a project's place is remembered.
    pub project_info_cache_ttl: Duration,
    /// How long a failure to find it is remembered.
    pub project_info_cache_error_ttl: Duration,
    /// Largest manifest in bytes.
    pub max_manifest_file_size: u32,
    /// All manifests together, in bytes.
    pub max_total_manifest_file_size: u32,
    /// Most paths of a request.
    pub max_number_of_paths: u32,
    /// Most files visited under a path.
    pub max_number_of_files: u32,
}

/// The Kubernetes API proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesApi {
    /// The socket.
    pub address: ListenAddress,
    /// TLS, if any.
    pub tls: Option<TlsFiles>,
    /// How long to accept on after the signal to stop.
    pub listen_grace_period: Duration,
    /// How long to wait for requests in flight after that.
    pub shutdown_grace_period: Duration,
    /// The path it is served under; ends in `/`.
    pub url_path_prefix: String,
    /// The secret of tokens for browsers' WebSockets; without it none are given.
    pub websocket_token_secret_file: Option<PathBuf>,
    /// The origins whose pages may use cookies and WebSocket tokens, as browsers write them; without
    /// any, GitLab's, or without a GitLab the host that is called.
    pub allowed_origins: Vec<String>,
    /// Headers that clusters' answers may carry besides those of Kubernetes.
    pub response_headers: Vec<HeaderName>,
    /// How long a permission is remembered; zero does not remember.
    pub allowed_agent_cache_ttl: Duration,
    /// How long a refusal is remembered.
    pub allowed_agent_cache_error_ttl: Duration,
}

/// Logs, metrics, probes, traces.
#[derive(Debug, Clone, PartialEq)]
pub struct Observability {
    /// How often usage is reported; zero does not report.
    pub usage_reporting_period: Duration,
    /// The socket of metrics and probes.
    pub address: ListenAddress,
    /// TLS, if any.
    pub tls: Option<TlsFiles>,
    /// Path of the metrics.
    pub prometheus_url_path: String,
    /// Path of the liveness probe.
    pub liveness_url_path: String,
    /// Path of the readiness probe.
    pub readiness_url_path: String,
    /// Traces; `None` leaves them off.
    pub tracing: Option<Tracing>,
    /// Error reports; empty leaves them off.
    pub sentry_dsn: Secret,
    /// The environment named in error reports.
    pub sentry_environment: String,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How much is logged about gRPC itself.
    pub grpc_log_level: LogLevel,
    /// Whether the accepted, but unsupported, profiler was asked for.
    pub google_profiler: bool,
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// An http or https URL that takes OTLP.
    pub otlp_endpoint: String,
    /// A file with a token for it.
    pub otlp_token_secret_file: Option<PathBuf>,
    /// A CA that signs its certificate.
    pub otlp_ca_certificate_file: Option<PathBuf>,
}

/// The shared store of the routing table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Where it is.
    pub servers: RedisServers,
    /// Whether addresses are paths of Unix sockets.
    pub unix: bool,
    /// How long a connection may take to be made.
    pub dial_timeout: Duration,
    /// How long a write may take.
    pub write_timeout: Duration,
    /// What all keys start with.
    pub key_prefix: String,
    /// The user, empty for the default one.
    pub username: String,
    /// A file with the password, taken byte for byte.
    pub password_file: Option<PathBuf>,
    /// The number of the database.
    pub database_index: u32,
    /// TLS, if any.
    pub tls: Option<RedisTls>,
}

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisServers {
    /// One server.
    Single {
        /// Its `host:port` or socket path.
        address: String,
    },
    /// Whoever the sentinels name.
    Sentinel {
        /// The name of the master.
        master_name: String,
        /// The sentinels.
        addresses: Vec<String>,
        /// A file with the sentinels' password.
        password_file: Option<PathBuf>,
    },
    /// A cluster.
    Cluster {
        /// Some of its nodes.
        addresses: Vec<String>,
    },
}

/// TLS to Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisTls {
    /// A client certificate, if any.
    pub client: Option<TlsFiles>,
    /// A CA besides those of the system.
    pub ca_certificate_file: Option<PathBuf>,
}

/// The API that GitLab calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiListen {
    /// The socket.
    pub address: ListenAddress,
    /// The secret that GitLab's tokens are signed with.
    pub authentication_secret_file: PathBuf,
    /// TLS, if any.
    pub tls: Option<TlsFiles>,
    /// After this time a connection is replaced.
    pub max_connection_age: Duration,
    /// How long to accept on after the signal to stop.
    pub listen_grace_period: Duration,
}

/// The API that other replicas call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateApiListen {
    /// What it has in common with the API that GitLab calls.
    pub listen: ApiListen,
    /// A CA that signs the other replicas' certificates.
    pub ca_certificate_file: Option<PathBuf>,
    /// Whoever calls must show a certificate that this CA has signed; replicas
    /// show the listener's.
    pub client_ca_certificate_file: Option<PathBuf>,
    /// Replicas show each other tokens as GitLab's kas does, which are good at every replica, and need not
    /// prove themselves before. For sets in which GitLab's kas is a replica too.
    pub gitlab_tokens: bool,
}
