//! From the file as written to the tree: rules across keys, and defaults.

mod browsers;
mod events;
mod gitlab;
mod parts;
mod redis;

use std::path::Path;

use parts::Rules;

use super::{
    Agent, AgentConfiguration, AgentListen, ApiListen, Config, ControlPlaneConfig, Gitaly, Gitops,
    KubernetesApi, LogLevel, Observability, PrivateApiListen, RateLimit, Secret, Tracing, file,
};
use crate::yaml::{Mistake, Spot};

pub(super) fn resolve(path: &Path, document: file::Document) -> Result<Config, Mistake> {
    let rules = Rules { file: path };
    Ok(Config {
        control_plane: control_plane(&rules, &document)?,
        agent: agent(&rules, document.agent.unwrap_or_default())?,
        observability: observability(&rules, document.observability.unwrap_or_default())?,
        gitaly: gitaly(&rules, document.gitaly.unwrap_or_default())?,
        redis: document
            .redis
            .map(|it| redis::redis(&rules, it))
            .transpose()?,
        api: document.api.map(|it| api(&rules, it.listen)).transpose()?,
        private_api: document
            .private_api
            .map(|it| private_api(&rules, it.listen))
            .transpose()?,
    })
}

fn control_plane(
    rules: &Rules<'_>,
    document: &file::Document,
) -> Result<ControlPlaneConfig, Mistake> {
    match (&document.standalone, &document.gitlab) {
        (Some(standalone), None) => Ok(ControlPlaneConfig::Standalone {
            file: standalone.file.0.clone().into(),
        }),
        (Some(_), Some(gitlab)) => Err(rules.at(
            gitlab,
            "`gitlab` and `standalone` are both given: only one control plane can be used, remove one",
        )),
        (None, Some(gitlab)) => gitlab::gitlab(rules, &gitlab.value).map(ControlPlaneConfig::GitLab),
        (None, None) => Err(rules.at_start(
            "no control plane is configured: add `gitlab: {address: …, authentication_secret_file: …}`, \
             or `standalone: {file: agents.yaml}`",
        )),
    }
}

fn agent(rules: &Rules<'_>, agent: file::Agent) -> Result<Agent, Mistake> {
    let ttl = parts::seconds(agent.redis_conn_info_ttl.as_ref().map(|s| s.value), 300);
    let refresh = parts::seconds(agent.redis_conn_info_refresh.as_ref().map(|s| s.value), 240);
    if let Some(culprit) = agent.redis_conn_info_refresh.or(agent.redis_conn_info_ttl)
        && refresh >= ttl
    {
        return Err(rules.at(
            &culprit,
            "agent.redis_conn_info_refresh must be smaller than agent.redis_conn_info_ttl",
        ));
    }
    Ok(Agent {
        listen: agent_listen(rules, agent.listen)?,
        configuration: agent_configuration(agent.configuration.unwrap_or_default()),
        gitops: gitops(agent.gitops.unwrap_or_default()),
        receptive_poll_period: parts::positive(
            agent.receptive_agent.and_then(|it| it.poll_period),
            300,
        ),
        info_cache_ttl: parts::seconds(agent.info_cache_ttl, 300),
        info_cache_error_ttl: parts::positive(agent.info_cache_error_ttl, 60),
        redis_conn_info_ttl: ttl,
        redis_conn_info_refresh: refresh,
        redis_conn_info_gc: parts::seconds(agent.redis_conn_info_gc, 600),
        kubernetes_api: agent
            .kubernetes_api
            .map(|it| kubernetes_api(rules, it))
            .transpose()?,
        events: agent
            .events
            .map(|it| events::events(rules, it))
            .transpose()?,
        graph: agent.graph.and_then(|it| it.enabled).unwrap_or(true),
    })
}

fn agent_listen(
    rules: &Rules<'_>,
    listen: Option<Spot<file::AgentListen>>,
) -> Result<AgentListen, Mistake> {
    let listen = parts::or_default(listen);
    let tls = rules.tls(&listen, "agent.listen", |l| {
        (l.certificate_file.clone(), l.key_file.clone())
    })?;
    let address = rules.address(
        &listen,
        listen.value.network,
        &listen.value.address,
        "127.0.0.1:8150",
    )?;
    let listen = listen.value;
    Ok(AgentListen {
        address,
        websocket: listen.websocket.unwrap_or(true),
        tls,
        proxy_protocol: listen.proxy_protocol.unwrap_or_default(),
        connections_per_token_per_minute: parts::number(
            listen.connections_per_token_per_minute,
            40_000,
        ),
        drain_connections_per_second: parts::number(listen.drain_connections_per_second, 200),
        max_connection_age: parts::positive(listen.max_connection_age, 7200),
        listen_grace_period: parts::positive(listen.listen_grace_period, 5),
    })
}

fn agent_configuration(configuration: file::AgentConfiguration) -> AgentConfiguration {
    AgentConfiguration {
        poll_period: parts::positive(configuration.poll_period, 300),
        max_configuration_file_size: parts::number(
            configuration.max_configuration_file_size,
            128 * 1024,
        ),
    }
}

fn gitops(gitops: file::Gitops) -> Gitops {
    const MIB: u32 = 1024 * 1024;
    Gitops {
        poll_period: parts::positive(gitops.poll_period, 300),
        project_info_cache_ttl: parts::seconds(gitops.project_info_cache_ttl, 300),
        project_info_cache_error_ttl: parts::positive(gitops.project_info_cache_error_ttl, 60),
        max_manifest_file_size: parts::number(gitops.max_manifest_file_size, 5 * MIB),
        max_total_manifest_file_size: parts::number(gitops.max_total_manifest_file_size, 20 * MIB),
        max_number_of_paths: parts::number(gitops.max_number_of_paths, 100),
        max_number_of_files: parts::number(gitops.max_number_of_files, 1000),
    }
}

fn kubernetes_api(rules: &Rules<'_>, proxy: file::KubernetesApi) -> Result<KubernetesApi, Mistake> {
    let listen = parts::or_default(proxy.listen);
    let tls = rules.tls(&listen, "agent.kubernetes_api.listen", |l| {
        (l.certificate_file.clone(), l.key_file.clone())
    })?;
    let address = rules.address(
        &listen,
        listen.value.network,
        &listen.value.address,
        "0.0.0.0:8154",
    )?;
    let mut url_path_prefix = rules.url_path(proxy.url_path_prefix, "/")?;
    if !url_path_prefix.ends_with('/') {
        url_path_prefix.push('/');
    }
    Ok(KubernetesApi {
        address,
        tls,
        listen_grace_period: parts::positive(listen.value.listen_grace_period, 5),
        shutdown_grace_period: parts::positive(listen.value.shutdown_grace_period, 3600),
        url_path_prefix,
        websocket_token_secret_file: parts::file(proxy.websocket_token_secret_file),
        allowed_origins: browsers::origins(rules, proxy.allowed_origins)?,
        response_headers: browsers::response_headers(rules, proxy.response_headers)?,
        allowed_agent_cache_ttl: parts::seconds(proxy.allowed_agent_cache_ttl, 60),
        allowed_agent_cache_error_ttl: parts::positive(proxy.allowed_agent_cache_error_ttl, 10),
    })
}

fn observability(
    rules: &Rules<'_>,
    observability: file::Observability,
) -> Result<Observability, Mistake> {
    let listen = parts::or_default(observability.listen);
    let tls = rules.tls(&listen, "observability.listen", |l| {
        let path = |text: &crate::yaml::NonEmpty| text.0.clone().into();
        (
            l.certificate_file.as_ref().map(path),
            l.key_file.as_ref().map(path),
        )
    })?;
    let sentry = observability.sentry.unwrap_or_default();
    let logging = observability.logging.unwrap_or_default();
    let path = |section: Option<file::UrlPath>, default| {
        rules.url_path(section.and_then(|it| it.url_path), default)
    };
    Ok(Observability {
        usage_reporting_period: parts::seconds(observability.usage_reporting_period, 60),
        address: rules.address(
            &listen,
            listen.value.network,
            &listen.value.address,
            "127.0.0.1:8151",
        )?,
        tls,
        prometheus_url_path: path(observability.prometheus, "/metrics")?,
        liveness_url_path: path(observability.liveness_probe, "/liveness")?,
        readiness_url_path: path(observability.readiness_probe, "/readiness")?,
        tracing: observability
            .tracing
            .map(|it| tracing(rules, it))
            .transpose()?,
        sentry_dsn: Secret::new(sentry.dsn.unwrap_or_default()),
        sentry_environment: sentry.environment.unwrap_or_default(),
        log_level: logging.level.unwrap_or_default(),
        grpc_log_level: logging.grpc_level.unwrap_or(LogLevel::Error),
        google_profiler: observability
            .google_profiler
            .and_then(|it| it.enabled)
            .unwrap_or_default(),
    })
}

fn tracing(rules: &Rules<'_>, tracing: file::Tracing) -> Result<Tracing, Mistake> {
    let endpoint = &tracing.otlp_endpoint;
    if !["http://", "https://"]
        .iter()
        .any(|scheme| endpoint.value.starts_with(scheme))
    {
        return Err(rules.at(endpoint, "otlp_endpoint must be an http:// or https:// URL"));
    }
    Ok(Tracing {
        otlp_endpoint: tracing.otlp_endpoint.value,
        otlp_token_secret_file: tracing.otlp_token_secret_file.map(|it| it.0.into()),
        otlp_ca_certificate_file: tracing.otlp_ca_certificate_file.map(|it| it.0.into()),
    })
}

fn gitaly(rules: &Rules<'_>, gitaly: file::Gitaly) -> Result<Gitaly, Mistake> {
    Ok(Gitaly {
        global: rate_limit(rules, gitaly.global_api_rate_limit.as_ref(), 30.0, 70)?,
        per_server: rate_limit(rules, gitaly.per_server_api_rate_limit.as_ref(), 15.0, 40)?,
    })
}

fn rate_limit(
    rules: &Rules<'_>,
    limit: Option<&file::RateLimit>,
    rate: f64,
    bucket: u32,
) -> Result<RateLimit, Mistake> {
    let given = limit.and_then(|it| it.refill_rate_per_second.as_ref());
    let refill_rate_per_second = match given {
        Some(given) if given.value < 0.0 || !given.value.is_finite() => {
            return Err(rules.at(given, "refill_rate_per_second must be 0 or more"));
        }
        Some(given) if given.value > 0.0 => given.value,
        Some(_) | None => rate,
    };
    Ok(RateLimit {
        refill_rate_per_second,
        bucket_size: parts::number(limit.and_then(|it| it.bucket_size), bucket),
    })
}

fn api(rules: &Rules<'_>, listen: Spot<file::ApiListen>) -> Result<ApiListen, Mistake> {
    let tls = rules.tls(&listen, "api.listen", |l| {
        (l.certificate_file.clone(), l.key_file.clone())
    })?;
    let address = rules.address(
        &listen,
        listen.value.network,
        &listen.value.address,
        "127.0.0.1:8153",
    )?;
    let listen = listen.value;
    Ok(ApiListen {
        address,
        authentication_secret_file: listen.authentication_secret_file.0.into(),
        tls,
        max_connection_age: parts::positive(listen.max_connection_age, 7200),
        listen_grace_period: parts::positive(listen.listen_grace_period, 5),
    })
}

fn private_api(
    rules: &Rules<'_>,
    listen: Spot<file::PrivateApiListen>,
) -> Result<PrivateApiListen, Mistake> {
    let tls = rules.tls(&listen, "private_api.listen", |l| {
        (l.certificate_file.clone(), l.key_file.clone())
    })?;
    let address = rules.address(
        &listen,
        listen.value.network,
        &listen.value.address,
        "127.0.0.1:8155",
    )?;
    let client_ca = parts::file(listen.value.client_ca_certificate_file.clone());
    if client_ca.is_some() && tls.is_none() {
        return Err(rules.at(
            &listen,
            "private_api.listen: client_ca_certificate_file needs certificate_file and key_file",
        ));
    }
    let listen = listen.value;
    Ok(PrivateApiListen {
        client_ca_certificate_file: client_ca,
        gitlab_tokens: listen.gitlab_tokens,
        listen: ApiListen {
            address,
            authentication_secret_file: listen.authentication_secret_file.0.into(),
            tls,
            max_connection_age: parts::positive(listen.max_connection_age, 7200),
            listen_grace_period: parts::positive(listen.listen_grace_period, 5),
        },
        ca_certificate_file: parts::file(listen.ca_certificate_file),
    })
}
