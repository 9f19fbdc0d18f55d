//! The configuration file as written: every key optional unless GitLab requires it.

use std::path::PathBuf;

use serde::{Deserialize, de::IgnoredAny};

use super::{LogLevel, Network};
use crate::yaml::{NonEmpty, PositiveSeconds, Seconds, Spot};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Document {
    pub(super) standalone: Option<Standalone>,
    pub(super) gitlab: Option<Spot<GitLab>>,
    pub(super) agent: Option<Agent>,
    pub(super) observability: Option<Observability>,
    pub(super) gitaly: Option<Gitaly>,
    pub(super) redis: Option<Spot<Redis>>,
    pub(super) api: Option<Api>,
    pub(super) private_api: Option<PrivateApi>,
    pub(super) workspaces: Option<Workspaces>,
    pub(super) config: Option<IgnoredAny>,
}

/// Only whether they are wanted: there are none here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Workspaces {
    pub(super) enabled: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Standalone {
    pub(super) file: NonEmpty,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GitLab {
    pub(super) address: Spot<NonEmpty>,
    pub(super) external_url: Option<Spot<NonEmpty>>,
    pub(super) authentication_secret_file: NonEmpty,
    pub(super) ca_certificate_file: Option<PathBuf>,
    pub(super) api_rate_limit: Option<RateLimit>,
    pub(super) outage_grace: Option<OutageGrace>,
}

/// Ours; upstream has none.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OutageGrace {
    pub(super) agents: Option<Seconds>,
    pub(super) callers: Option<Seconds>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RateLimit {
    pub(super) refill_rate_per_second: Option<Spot<f64>>,
    pub(super) bucket_size: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Agent {
    pub(super) listen: Option<Spot<AgentListen>>,
    pub(super) configuration: Option<AgentConfiguration>,
    pub(super) gitops: Option<Gitops>,
    pub(super) info_cache_ttl: Option<Seconds>,
    pub(super) info_cache_error_ttl: Option<PositiveSeconds>,
    pub(super) redis_conn_info_ttl: Option<Spot<Seconds>>,
    pub(super) redis_conn_info_refresh: Option<Spot<Seconds>>,
    pub(super) redis_conn_info_gc: Option<Seconds>,
    pub(super) kubernetes_api: Option<KubernetesApi>,
    pub(super) receptive_agent: Option<ReceptiveAgent>,
    pub(super) remote_development: Option<RemoteDevelopment>,
    pub(super) events: Option<Events>,
    pub(super) graph: Option<Graph>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AgentListen {
    pub(super) network: Option<Network>,
    pub(super) address: Option<String>,
    pub(super) websocket: Option<bool>,
    pub(super) proxy_protocol: Option<bool>,
    pub(super) certificate_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) connections_per_token_per_minute: Option<u32>,
    pub(super) drain_connections_per_second: Option<u32>,
    pub(super) max_connection_age: Option<PositiveSeconds>,
    pub(super) listen_grace_period: Option<PositiveSeconds>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AgentConfiguration {
    pub(super) poll_period: Option<PositiveSeconds>,
    pub(super) max_configuration_file_size: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Gitops {
    pub(super) poll_period: Option<PositiveSeconds>,
    pub(super) project_info_cache_ttl: Option<Seconds>,
    pub(super) project_info_cache_error_ttl: Option<PositiveSeconds>,
    pub(super) max_manifest_file_size: Option<u32>,
    pub(super) max_total_manifest_file_size: Option<u32>,
    pub(super) max_number_of_paths: Option<u32>,
    pub(super) max_number_of_files: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct KubernetesApi {
    pub(super) listen: Option<Spot<KubernetesApiListen>>,
    pub(super) url_path_prefix: Option<Spot<String>>,
    pub(super) websocket_token_secret_file: Option<PathBuf>,
    /// Ours; upstream has none.
    pub(super) allowed_origins: Option<Vec<Spot<NonEmpty>>>,
    /// Ours; upstream has none.
    pub(super) response_headers: Option<Vec<Spot<NonEmpty>>>,
    pub(super) allowed_agent_cache_ttl: Option<Seconds>,
    pub(super) allowed_agent_cache_error_ttl: Option<PositiveSeconds>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct KubernetesApiListen {
    pub(super) network: Option<Network>,
    pub(super) address: Option<String>,
    pub(super) certificate_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) listen_grace_period: Option<PositiveSeconds>,
    pub(super) shutdown_grace_period: Option<PositiveSeconds>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ReceptiveAgent {
    pub(super) poll_period: Option<PositiveSeconds>,
}

/// Ours; upstream has none.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Graph {
    pub(super) enabled: Option<bool>,
}

/// Ours; upstream has none.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Events {
    pub(super) log: Option<bool>,
    pub(super) webhooks: Vec<Webhook>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Webhook {
    pub(super) url: Spot<NonEmpty>,
    pub(super) secret_file: NonEmpty,
    pub(super) ca_certificate_file: Option<PathBuf>,
}

/// Accepted, as upstream does; nothing reads it there either.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RemoteDevelopment {
    poll_period: Option<PositiveSeconds>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Observability {
    pub(super) usage_reporting_period: Option<Seconds>,
    pub(super) listen: Option<Spot<ObservabilityListen>>,
    pub(super) prometheus: Option<UrlPath>,
    pub(super) liveness_probe: Option<UrlPath>,
    pub(super) readiness_probe: Option<UrlPath>,
    pub(super) tracing: Option<Tracing>,
    pub(super) sentry: Option<Sentry>,
    pub(super) logging: Option<Logging>,
    pub(super) google_profiler: Option<GoogleProfiler>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ObservabilityListen {
    pub(super) network: Option<Network>,
    pub(super) address: Option<String>,
    pub(super) certificate_file: Option<NonEmpty>,
    pub(super) key_file: Option<NonEmpty>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct UrlPath {
    pub(super) url_path: Option<Spot<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tracing {
    pub(super) otlp_endpoint: Spot<String>,
    pub(super) otlp_token_secret_file: Option<NonEmpty>,
    pub(super) otlp_ca_certificate_file: Option<NonEmpty>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Sentry {
    pub(super) dsn: Option<String>,
    pub(super) environment: Option<String>,
}

impl std::fmt::Debug for Sentry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sentry").finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Logging {
    pub(super) level: Option<LogLevel>,
    pub(super) grpc_level: Option<LogLevel>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct GoogleProfiler {
    pub(super) enabled: Option<bool>,
    project_id: Option<String>,
    credentials_file: Option<PathBuf>,
    debug_logging: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Gitaly {
    pub(super) global_api_rate_limit: Option<RateLimit>,
    pub(super) per_server_api_rate_limit: Option<RateLimit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Redis {
    pub(super) server: Option<RedisServer>,
    pub(super) sentinel: Option<Spot<RedisSentinel>>,
    pub(super) cluster: Option<Spot<RedisCluster>>,
    pub(super) pool_size: Option<u32>,
    pub(super) dial_timeout: Option<PositiveSeconds>,
    pub(super) read_timeout: Option<PositiveSeconds>,
    pub(super) write_timeout: Option<PositiveSeconds>,
    pub(super) idle_timeout: Option<PositiveSeconds>,
    pub(super) key_prefix: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) network: Option<RedisNetwork>,
    pub(super) database_index: Option<u32>,
    pub(super) tls: Option<Spot<RedisTls>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RedisServer {
    pub(super) address: NonEmpty,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RedisSentinel {
    pub(super) master_name: NonEmpty,
    pub(super) addresses: Vec<NonEmpty>,
    pub(super) sentinel_password_file: Option<PathBuf>,
}

/// Not among the keys of GitLab's kas.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RedisCluster {
    pub(super) addresses: Vec<NonEmpty>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RedisNetwork {
    #[serde(alias = "")]
    Tcp,
    Unix,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RedisTls {
    pub(super) enabled: Option<bool>,
    pub(super) certificate_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) ca_certificate_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Api {
    pub(super) listen: Spot<ApiListen>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiListen {
    pub(super) network: Option<Network>,
    pub(super) address: Option<String>,
    pub(super) authentication_secret_file: NonEmpty,
    pub(super) certificate_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) max_connection_age: Option<PositiveSeconds>,
    pub(super) listen_grace_period: Option<PositiveSeconds>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrivateApi {
    pub(super) listen: Spot<PrivateApiListen>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrivateApiListen {
    pub(super) network: Option<Network>,
    pub(super) address: Option<String>,
    pub(super) authentication_secret_file: NonEmpty,
    pub(super) certificate_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) ca_certificate_file: Option<PathBuf>,
    pub(super) client_ca_certificate_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) gitlab_tokens: bool,
    pub(super) max_connection_age: Option<PositiveSeconds>,
    pub(super) listen_grace_period: Option<PositiveSeconds>,
}
