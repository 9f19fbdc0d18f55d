//! The section `observability`.

use std::path::PathBuf;

use runtime::{
    listen::Network,
    listens, section,
    telemetry::LogLevel,
    yaml::{At, FilePath, NoEffect, Reason, Seconds, Setting, YamlError, check_url_path},
};
use serde::{Deserialize, Serialize};

use super::{
    Secret,
    unused::{NoGrpcLog, NotBuilt},
};

section! {
    /// Logs, metrics, probes, traces.
    pub struct Observability: Default {
        /// How often usage is reported; zero does not report.
        pub usage_reporting_period: Seconds = Seconds::new(60),
        /// The socket of metrics and probes.
        pub listen: ObservabilityListen = ObservabilityListen::default(),
        /// The metrics.
        pub prometheus: UrlPath = UrlPath::new("/metrics"),
        /// The liveness probe.
        pub liveness_probe: UrlPath = UrlPath::new("/liveness"),
        /// The readiness probe.
        pub readiness_probe: UrlPath = UrlPath::new("/readiness"),
        /// How many agents have metrics of their own, at most. Not among the keys of GitLab's kas.
        pub max_agent_series: SeriesLimit = SeriesLimit(1000),
        /// How many callers have metrics of their own, at most: half of them users, half CI jobs and services; zero
        /// switches these metrics off. Not among the keys of GitLab's kas.
        pub max_caller_series: SeriesLimit = SeriesLimit(100),
        /// Traces.
        pub tracing: Option<Tracing> = None,
        /// Error reports.
        pub sentry: Sentry = Sentry::default(),
        /// How much is logged.
        pub logging: Logging = Logging::default(),
        /// Profiles.
        pub google_profiler: GoogleProfiler = GoogleProfiler::default(),
    }
}

section! {
    /// The socket of metrics and probes.
    pub struct ObservabilityListen: Default {
        /// The kind of socket.
        pub network: Network = Network::default(),
        /// The socket.
        pub address: String = Self::DEFAULT_ADDRESS.to_owned(),
        /// The certificate, for TLS.
        pub certificate_file: Option<FilePath> = None,
        /// Its key.
        pub key_file: Option<FilePath> = None,
    }
    check = check_listener;
}
listens!(ObservabilityListen, "127.0.0.1:8151");

section! {
    /// Where something is served. The default is that of the section around it.
    pub struct UrlPath {
        /// The path.
        pub url_path: String = String::new(),
    }
    check = check_path;
    or = filled_from;
}

section! {
    /// Where traces go.
    pub struct Tracing {
        /// An http or https URL that takes OTLP.
        pub otlp_endpoint: String,
        /// A file with a token for it.
        pub otlp_token_secret_file: Option<FilePath> = None,
        /// A CA that signs its certificate.
        pub otlp_ca_certificate_file: Option<FilePath> = None,
        /// The share of requests that have a trace, of those about which the client has not decided. Not among the
        /// keys of GitLab's kas.
        pub sample_ratio: Share = Share(0.1),
    }
    check = check_endpoint;
}

section! {
    /// Error reports.
    pub struct Sentry: Default {
        /// Where they would go; empty leaves them off.
        pub dsn: Secret = Secret::default(),
        /// The environment named in them.
        pub environment: String = String::new(),
    }
    check = check_dsn;
}

section! {
    /// How much is logged.
    pub struct Logging: Default {
        /// By everything.
        pub level: LogLevel = LogLevel::default(),
        /// How lines look; without it as GitLab's kas writes them where there is a GitLab. Not among the keys of
        /// GitLab's kas.
        pub format: Option<LogFormat> = None,
        /// By gRPC itself.
        pub grpc_level: NoEffect<LogLevel, NoGrpcLog> = NoEffect::new(LogLevel::Error),
    }
}

section! {
    /// Profiles.
    pub struct GoogleProfiler: Default {
        /// Whether they are wanted.
        pub enabled: bool = false,
        /// For which project.
        #[serde(skip_serializing)]
        pub project_id: Option<String> = None,
        /// By which account.
        #[serde(skip_serializing)]
        pub credentials_file: Option<PathBuf> = None,
        /// Whether it logs what it does.
        #[serde(skip_serializing)]
        pub debug_logging: bool = false,
    }
    check = check_profiler;
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// JSON with the keys of GitLab's kas: `time`, `level`, `msg`, `mod_name`, `agent_id` and so on.
    Gitlab,
    /// JSON with the keys of this program: `timestamp`, `level`, `message`, `target`, `agent.id` and so on.
    Json,
    /// Text, for a person at a terminal.
    Text,
}

impl Setting for LogFormat {}

/// How many series there may be of one kind; zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct SeriesLimit(pub usize);

impl Setting for SeriesLimit {}

/// A share, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Share(pub f64);

impl Setting for Share {
    fn check(&self, at: &At<'_>) -> Result<(), YamlError> {
        if (0.0..=1.0).contains(&self.0) {
            return Ok(());
        }
        Err(at.mistake("must be a share from 0 to 1"))
    }
}

impl UrlPath {
    fn new(url_path: &str) -> Self {
        Self {
            url_path: url_path.to_owned(),
        }
    }

    fn filled_from(self, default: Self) -> Self {
        if self.url_path.is_empty() {
            default
        } else {
            self
        }
    }

    fn check_path(&self, at: &At<'_>) -> Result<(), YamlError> {
        check_url_path(&at.key("url_path"), &self.url_path)
    }
}

impl Tracing {
    fn check_endpoint(&self, at: &At<'_>) -> Result<(), YamlError> {
        let schemes = ["http://", "https://"];
        if schemes
            .iter()
            .any(|scheme| self.otlp_endpoint.starts_with(scheme))
        {
            return Ok(());
        }
        let at = at.key("otlp_endpoint");
        Err(at.mistake("otlp_endpoint must be an http:// or https:// URL"))
    }
}

impl Sentry {
    fn check_dsn(&self, at: &At<'_>) -> Result<(), YamlError> {
        if !self.dsn.expose().is_empty() {
            at.note(NotBuilt::WHY);
        }
        Ok(())
    }
}

impl GoogleProfiler {
    fn check_profiler(&self, at: &At<'_>) -> Result<(), YamlError> {
        if self.enabled {
            at.note(NotBuilt::WHY);
        }
        Ok(())
    }
}
