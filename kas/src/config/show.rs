//! The effective configuration as a file would say it, every default written
//! out. Secrets are in files of their own, and only those files are named.

use std::{path::Path, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    Agent, AgentListen, ApiListen, Config, ControlPlaneConfig, Events, GitLab, KubernetesApi,
    ListenAddress, Network, Observability, PrivateApiListen, RateLimit, Redis, RedisServers,
    TlsFiles, Webhook,
};

/// What stands in the place of a secret.
const HIDDEN: &str = "<hidden>";

impl Config {
    /// The effective configuration in the form of a file.
    #[must_use]
    pub fn show(&self) -> Value {
        let mut all = Map::new();
        match &self.control_plane {
            ControlPlaneConfig::Standalone { file } => {
                all.insert("standalone".into(), json!({"file": file}));
            }
            ControlPlaneConfig::GitLab(it) => {
                all.insert("gitlab".into(), gitlab(it));
            }
        }
        all.insert("agent".into(), agent(&self.agent));
        all.insert("observability".into(), observability(&self.observability));
        all.insert(
            "gitaly".into(),
            json!({
                "global_api_rate_limit": rate_limit(self.gitaly.global),
                "per_server_api_rate_limit": rate_limit(self.gitaly.per_server),
            }),
        );
        put(&mut all, "redis", self.redis.as_ref().map(redis));
        let listen = |it| json!({"listen": it});
        put(&mut all, "api", self.api.as_ref().map(api).map(listen));
        let private = self.private_api.as_ref().map(private_api);
        put(&mut all, "private_api", private.map(listen));
        Value::Object(all)
    }
}

fn gitlab(gitlab: &GitLab) -> Value {
    let mut all = object(json!({"address": gitlab.address}));
    put(
        &mut all,
        "external_url",
        gitlab.external_url.as_ref().map(|it| json!(it)),
    );
    all.insert(
        "authentication_secret_file".into(),
        path(&gitlab.authentication_secret_file),
    );
    let ca = gitlab.ca_certificate_file.as_deref();
    put(&mut all, "ca_certificate_file", ca.map(path));
    all.insert("api_rate_limit".into(), rate_limit(gitlab.api_rate_limit));
    let grace = json!({
        "agents": seconds(gitlab.agents_grace),
        "callers": seconds(gitlab.callers_grace),
    });
    all.insert("outage_grace".into(), grace);
    Value::Object(all)
}

fn agent(agent: &Agent) -> Value {
    let mut all = object(json!({
        "listen": agent_listen(&agent.listen),
        "configuration": {
            "poll_period": seconds(agent.configuration.poll_period),
            "max_configuration_file_size": agent.configuration.max_configuration_file_size,
        },
        "gitops": {
            "poll_period": seconds(agent.gitops.poll_period),
            "project_info_cache_ttl": seconds(agent.gitops.project_info_cache_ttl),
            "project_info_cache_error_ttl": seconds(agent.gitops.project_info_cache_error_ttl),
            "max_manifest_file_size": agent.gitops.max_manifest_file_size,
            "max_total_manifest_file_size": agent.gitops.max_total_manifest_file_size,
            "max_number_of_paths": agent.gitops.max_number_of_paths,
            "max_number_of_files": agent.gitops.max_number_of_files,
        },
        "receptive_agent": {"poll_period": seconds(agent.receptive_poll_period)},
        "info_cache_ttl": seconds(agent.info_cache_ttl),
        "info_cache_error_ttl": seconds(agent.info_cache_error_ttl),
        "redis_conn_info_ttl": seconds(agent.redis_conn_info_ttl),
        "redis_conn_info_refresh": seconds(agent.redis_conn_info_refresh),
        "redis_conn_info_gc": seconds(agent.redis_conn_info_gc),
        "graph": {"enabled": agent.graph},
    }));
    let proxy = agent.kubernetes_api.as_ref().map(kubernetes_api);
    put(&mut all, "kubernetes_api", proxy);
    put(&mut all, "events", agent.events.as_ref().map(events));
    Value::Object(all)
}

fn events(events: &Events) -> Value {
    let webhooks: Vec<_> = events.webhooks.iter().map(webhook).collect();
    json!({"log": events.log, "webhooks": webhooks})
}

fn webhook(webhook: &Webhook) -> Value {
    let mut all = object(json!({
        "url": webhook.url,
        "secret_file": path(&webhook.secret_file),
    }));
    let ca = webhook.ca_certificate_file.as_deref();
    put(&mut all, "ca_certificate_file", ca.map(path));
    Value::Object(all)
}

fn agent_listen(listen: &AgentListen) -> Value {
    let mut all = socket(&listen.address, listen.tls.as_ref());
    all.extend(object(json!({
        "websocket": listen.websocket,
        "proxy_protocol": listen.proxy_protocol,
        "connections_per_token_per_minute": listen.connections_per_token_per_minute,
        "max_connection_age": seconds(listen.max_connection_age),
        "listen_grace_period": seconds(listen.listen_grace_period),
        "drain_connections_per_second": listen.drain_connections_per_second,
    })));
    Value::Object(all)
}

fn kubernetes_api(proxy: &KubernetesApi) -> Value {
    let mut listen = socket(&proxy.address, proxy.tls.as_ref());
    listen.extend(object(json!({
        "listen_grace_period": seconds(proxy.listen_grace_period),
        "shutdown_grace_period": seconds(proxy.shutdown_grace_period),
    })));
    let headers: Vec<_> = proxy
        .response_headers
        .iter()
        .map(|it| it.as_str())
        .collect();
    let mut all = object(json!({
        "listen": listen,
        "url_path_prefix": proxy.url_path_prefix,
        "allowed_origins": proxy.allowed_origins,
        "response_headers": headers,
        "allowed_agent_cache_ttl": seconds(proxy.allowed_agent_cache_ttl),
        "allowed_agent_cache_error_ttl": seconds(proxy.allowed_agent_cache_error_ttl),
    }));
    let secret = proxy.websocket_token_secret_file.as_deref();
    put(&mut all, "websocket_token_secret_file", secret.map(path));
    Value::Object(all)
}

fn observability(it: &Observability) -> Value {
    let mut all = object(json!({
        "usage_reporting_period": seconds(it.usage_reporting_period),
        "listen": socket(&it.address, it.tls.as_ref()),
        "prometheus": {"url_path": it.prometheus_url_path},
        "liveness_probe": {"url_path": it.liveness_url_path},
        "readiness_probe": {"url_path": it.readiness_url_path},
    }));
    if let Some(tracing) = &it.tracing {
        let mut section = object(json!({"otlp_endpoint": tracing.otlp_endpoint}));
        let token = tracing.otlp_token_secret_file.as_deref();
        put(&mut section, "otlp_token_secret_file", token.map(path));
        let ca = tracing.otlp_ca_certificate_file.as_deref();
        put(&mut section, "otlp_ca_certificate_file", ca.map(path));
        all.insert("tracing".into(), Value::Object(section));
    }
    let dsn = if it.sentry_dsn.expose().is_empty() {
        ""
    } else {
        HIDDEN
    };
    let (level, grpc_level) = (it.log_level.as_str(), it.grpc_log_level.as_str());
    all.extend(object(json!({
        "sentry": {"dsn": dsn, "environment": it.sentry_environment},
        "logging": {"level": level, "grpc_level": grpc_level},
        "google_profiler": {"enabled": it.google_profiler},
    })));
    Value::Object(all)
}

fn redis(redis: &Redis) -> Value {
    let (key, servers) = match &redis.servers {
        RedisServers::Single { address } => ("server", json!({"address": address})),
        RedisServers::Cluster { addresses } => ("cluster", json!({"addresses": addresses})),
        RedisServers::Sentinel {
            master_name,
            addresses,
            password_file,
        } => {
            let mut all = object(json!({"master_name": master_name, "addresses": addresses}));
            let password = password_file.as_deref();
            put(&mut all, "sentinel_password_file", password.map(path));
            ("sentinel", Value::Object(all))
        }
    };
    let mut all = Map::from_iter([(key.to_owned(), servers)]);
    all.extend(object(json!({
        "network": if redis.unix { "unix" } else { "tcp" },
        "dial_timeout": seconds(redis.dial_timeout),
        "write_timeout": seconds(redis.write_timeout),
        "key_prefix": redis.key_prefix,
        "username": redis.username,
        "database_index": redis.database_index,
    })));
    put(
        &mut all,
        "password_file",
        redis.password_file.as_deref().map(path),
    );
    if let Some(tls) = &redis.tls {
        let mut section = object(json!({"enabled": true}));
        pair(&mut section, tls.client.as_ref());
        let ca = tls.ca_certificate_file.as_deref();
        put(&mut section, "ca_certificate_file", ca.map(path));
        all.insert("tls".into(), Value::Object(section));
    }
    Value::Object(all)
}

fn api(listen: &ApiListen) -> Map<String, Value> {
    let mut all = socket(&listen.address, listen.tls.as_ref());
    all.extend(object(json!({
        "authentication_secret_file": path(&listen.authentication_secret_file),
        "max_connection_age": seconds(listen.max_connection_age),
        "listen_grace_period": seconds(listen.listen_grace_period),
    })));
    all
}

fn private_api(private: &PrivateApiListen) -> Map<String, Value> {
    let mut all = api(&private.listen);
    let ca = private.ca_certificate_file.as_deref();
    put(&mut all, "ca_certificate_file", ca.map(path));
    let client_ca = private.client_ca_certificate_file.as_deref();
    put(&mut all, "client_ca_certificate_file", client_ca.map(path));
    all.insert("gitlab_tokens".into(), private.gitlab_tokens.into());
    all
}

fn socket(address: &ListenAddress, tls: Option<&TlsFiles>) -> Map<String, Value> {
    let network = match address.network {
        Network::Tcp => "tcp",
        Network::Tcp4 => "tcp4",
        Network::Tcp6 => "tcp6",
        Network::Unix => "unix",
    };
    let mut all = object(json!({"network": network, "address": address.address}));
    pair(&mut all, tls);
    all
}

fn pair(all: &mut Map<String, Value>, tls: Option<&TlsFiles>) {
    let Some(tls) = tls else { return };
    all.insert("certificate_file".into(), path(&tls.certificate_file));
    all.insert("key_file".into(), path(&tls.key_file));
}

fn rate_limit(limit: RateLimit) -> Value {
    json!({
        "refill_rate_per_second": limit.refill_rate_per_second,
        "bucket_size": limit.bucket_size,
    })
}

/// A duration as files write it.
fn seconds(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        nanos => {
            let fraction = format!("{nanos:09}");
            format!("{}.{}s", duration.as_secs(), fraction.trim_end_matches('0'))
        }
    }
}

fn path(path: &Path) -> Value {
    Value::String(path.display().to_string())
}

fn put(all: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        all.insert(key.to_owned(), value);
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(all) => all,
        _ => Map::new(),
    }
}
