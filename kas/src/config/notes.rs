//! What of a file has no effect, and why: told at the start, and by `check-config`.

use std::fmt;

use super::file::{self, Document};
use crate::yaml::UnknownKey;

/// A key without effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Line and column, where that is known.
    pub place: Option<(u64, u64)>,
    /// The keys that lead to it, with dots between.
    pub path: String,
    /// Why it has no effect.
    pub why: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}: ")?;
        }
        write!(f, "{} is ignored: {}", self.path, self.why)
    }
}

impl From<UnknownKey> for Note {
    fn from(key: UnknownKey) -> Self {
        Self {
            place: Some((key.line, key.column)),
            path: key.path,
            why: key.message,
        }
    }
}

const NO_MANIFESTS: &str = "this version delivers no manifests";
const LEASES: &str = "replicas' leases take its place, which have times of their own";
const UPSTREAM_TOO: &str = "accepted and without effect, as in GitLab's kas";
const NOT_BUILT: &str = "this version does not have it";
const ONE_GRACE: &str = "agent.listen.listen_grace_period counts for this listener too";

/// The keys that are known, given, and without effect.
pub(super) fn of(document: &Document) -> Vec<Note> {
    let mut found = Found::default();
    if let Some(api) = &document.api {
        let grace = api.listen.value.listen_grace_period.is_some();
        found.add("api.listen.listen_grace_period", grace, ONE_GRACE);
    }
    found.agent(document.agent.as_ref());
    found.observability(document.observability.as_ref());
    if let Some(redis) = &document.redis {
        found.redis(&redis.value);
    }
    if let Some(private) = &document.private_api {
        let listen = &private.listen.value;
        let age = "connections between replicas are not replaced by age";
        found.add(
            "private_api.listen.max_connection_age",
            listen.max_connection_age.is_some(),
            age,
        );
        found.add(
            "private_api.listen.listen_grace_period",
            listen.listen_grace_period.is_some(),
            ONE_GRACE,
        );
    }
    let workspaces = document.workspaces.as_ref().is_some_and(|it| it.enabled);
    found.add("workspaces", workspaces, NOT_BUILT);
    let command = "no command is run to get more of the configuration";
    found.add("config", document.config.is_some(), command);
    if document.standalone.is_some() {
        let usage = document.observability.as_ref();
        found.add(
            "observability.usage_reporting_period",
            usage.is_some_and(|it| it.usage_reporting_period.is_some()),
            "usage is reported to a GitLab only",
        );
        found.standalone(document.agent.as_ref());
    }
    found.0
}

#[derive(Default)]
struct Found(Vec<Note>);

impl Found {
    fn add(&mut self, path: &str, given: bool, why: &str) {
        if given {
            self.0.push(Note {
                place: None,
                path: path.to_owned(),
                why: why.to_owned(),
            });
        }
    }

    fn agent(&mut self, agent: Option<&file::Agent>) {
        let Some(agent) = agent else { return };
        self.add("agent.gitops", agent.gitops.is_some(), NO_MANIFESTS);
        self.add(
            "agent.redis_conn_info_ttl",
            agent.redis_conn_info_ttl.is_some(),
            LEASES,
        );
        self.add(
            "agent.redis_conn_info_refresh",
            agent.redis_conn_info_refresh.is_some(),
            LEASES,
        );
        self.add(
            "agent.redis_conn_info_gc",
            agent.redis_conn_info_gc.is_some(),
            LEASES,
        );
        self.add(
            "agent.remote_development",
            agent.remote_development.is_some(),
            UPSTREAM_TOO,
        );
    }

    fn observability(&mut self, observability: Option<&file::Observability>) {
        let Some(it) = observability else { return };
        let listen = it.listen.as_ref().map(|it| &it.value);
        let tls = listen.is_some_and(|it| it.certificate_file.is_some() || it.key_file.is_some());
        let plain = "this version serves metrics and probes in clear only";
        self.add("observability.listen.certificate_file", tls, plain);
        self.add("observability.tracing", it.tracing.is_some(), NOT_BUILT);
        let sentry = it.sentry.as_ref().and_then(|it| it.dsn.as_deref());
        self.add(
            "observability.sentry",
            sentry.is_some_and(|dsn| !dsn.is_empty()),
            NOT_BUILT,
        );
        let profiler = it.google_profiler.as_ref().and_then(|it| it.enabled);
        self.add(
            "observability.google_profiler",
            profiler == Some(true),
            NOT_BUILT,
        );
        let grpc = it
            .logging
            .as_ref()
            .is_some_and(|it| it.grpc_level.is_some());
        let level = "gRPC has no log of its own here; observability.logging.level counts";
        self.add("observability.logging.grpc_level", grpc, level);
    }

    fn redis(&mut self, redis: &file::Redis) {
        self.add("redis.pool_size", redis.pool_size.is_some(), UPSTREAM_TOO);
        self.add(
            "redis.read_timeout",
            redis.read_timeout.is_some(),
            UPSTREAM_TOO,
        );
        self.add(
            "redis.idle_timeout",
            redis.idle_timeout.is_some(),
            UPSTREAM_TOO,
        );
    }

    fn standalone(&mut self, agent: Option<&file::Agent>) {
        let Some(agent) = agent else { return };
        let why = "a change of the standalone file counts at once, so nothing is remembered";
        self.add("agent.info_cache_ttl", agent.info_cache_ttl.is_some(), why);
        self.add(
            "agent.info_cache_error_ttl",
            agent.info_cache_error_ttl.is_some(),
            why,
        );
        let Some(api) = &agent.kubernetes_api else {
            return;
        };
        let path = "agent.kubernetes_api.allowed_agent_cache_ttl";
        self.add(path, api.allowed_agent_cache_ttl.is_some(), why);
        let path = "agent.kubernetes_api.allowed_agent_cache_error_ttl";
        self.add(path, api.allowed_agent_cache_error_ttl.is_some(), why);
    }
}
