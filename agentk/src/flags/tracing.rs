//! The flags of traces.

use std::path::PathBuf;

use clap::Args;

use crate::config::{ConfigError, Tracing};

#[derive(Debug, Args)]
pub(super) struct TracingFlags {
    /// URL (with its path) that takes OTLP over HTTP: spans of the requests that kas samples go there
    #[arg(long, value_name = "URL")]
    tracing_otlp_endpoint: Option<String>,
    /// File with a token for --tracing-otlp-endpoint
    #[arg(long, value_name = "FILE")]
    tracing_otlp_token_file: Option<PathBuf>,
    /// File with CA certificates (PEM) for --tracing-otlp-endpoint
    #[arg(long, value_name = "FILE")]
    tracing_otlp_ca_cert_file: Option<PathBuf>,
}

impl TracingFlags {
    pub(super) fn into_config(self) -> Result<Option<Tracing>, ConfigError> {
        let Some(endpoint) = self.tracing_otlp_endpoint.filter(|url| !url.is_empty()) else {
            return Ok(None);
        };
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(ConfigError::Tracing);
        }
        Ok(Some(Tracing {
            endpoint,
            token: self.tracing_otlp_token_file,
            ca: self.tracing_otlp_ca_cert_file,
        }))
    }
}
