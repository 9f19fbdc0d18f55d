//! Where traces go, as configured.

use anyhow::Context as _;
use cluster_state::ReplicaId;
use runtime::traces::{Exporter, Settings, start as start_traces};

use crate::{config::Tracing, version};

/// Switches traces of this process on.
pub(super) fn start(config: &Tracing, replica: &ReplicaId) -> anyhow::Result<Exporter> {
    let token = config.otlp_token_secret_file.as_deref();
    let token = token.map(|file| {
        let read = std::fs::read_to_string(file);
        read.with_context(|| format!("cannot read {}", file.display()))
            .context("observability.tracing.otlp_token_secret_file")
    });
    let exporter = start_traces(&Settings {
        endpoint: config.otlp_endpoint.clone(),
        token: token.transpose()?.map(|token| token.trim().to_owned()),
        ca_files: config
            .otlp_ca_certificate_file
            .iter()
            .map(|file| file.to_path_buf())
            .collect(),
        service: "kas",
        version: version::VERSION.to_owned(),
        instance: replica.to_string(),
        sample_ratio: config.sample_ratio.0,
    })
    .context("observability.tracing")?;
    tracing::info!(
        endpoint = config.otlp_endpoint,
        sample_ratio = config.sample_ratio.0,
        "exporting traces"
    );
    Ok(exporter)
}
