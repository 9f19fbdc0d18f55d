//! Where traces go, as configured.

use anyhow::Context as _;
use cluster_state::ReplicaId;
use runtime::traces::{self, Exporter, Settings};

use crate::{config::Tracing, version};

const KEY: &str = "observability.tracing";

/// Switches traces of this process on.
pub(super) fn start(config: &Tracing, replica: &ReplicaId) -> anyhow::Result<Exporter> {
    let settings = settings(config, replica.to_string())?;
    let exporter = traces::start(&settings).context(KEY)?;
    tracing::info!(
        endpoint = config.otlp_endpoint,
        sample_ratio = config.sample_ratio.0,
        "exporting traces"
    );
    Ok(exporter)
}

/// Whether that would go well.
pub(super) fn check(config: &Tracing) -> anyhow::Result<()> {
    let settings = settings(config, String::new())?;
    traces::check(&settings).context(KEY)
}

fn settings(config: &Tracing, instance: String) -> anyhow::Result<Settings> {
    let token = config.otlp_token_secret_file.as_deref();
    let token = token.map(|file| {
        let read = std::fs::read_to_string(file);
        read.with_context(|| format!("cannot read {}", file.display()))
            .with_context(|| format!("{KEY}.otlp_token_secret_file"))
    });
    Ok(Settings {
        endpoint: config.otlp_endpoint.clone(),
        token: token.transpose()?.map(|token| token.trim().to_owned()),
        ca_files: config
            .otlp_ca_certificate_file
            .iter()
            .map(|file| file.to_path_buf())
            .collect(),
        service: "kas",
        version: version::VERSION.to_owned(),
        instance,
        sample_ratio: config.sample_ratio.0,
    })
}
