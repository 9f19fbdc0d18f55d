//! The agent of `kas up`, in the same process.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use agentk::{ClusterSource, Config, KubernetesOptions, Token};
use anyhow::Context;
use tokio_util::sync::CancellationToken;

/// How long the agent's calls may go on when all of this ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The cluster that the agent serves.
#[derive(Debug)]
pub enum Upstream {
    /// A server without authentication.
    Server(String),
    /// The cluster of a kubeconfig; without a file, of the usual ones.
    Kubeconfig {
        /// The file.
        file: Option<PathBuf>,
        /// The context, if not the current one.
        context: Option<String>,
    },
}

/// The agent's task.
pub type Running = tokio::task::JoinHandle<anyhow::Result<()>>;

/// Starts the agent; it ends with `stop`.
///
/// # Errors
/// When its configuration is wrong.
pub fn start(
    kas_address: &str,
    token_file: &Path,
    upstream: Upstream,
    stop: CancellationToken,
) -> anyhow::Result<Running> {
    let cluster = match upstream {
        Upstream::Server(server) => ClusterSource::Server(server),
        Upstream::Kubeconfig { file, context } => {
            ClusterSource::Options(Box::new(KubernetesOptions {
                kubeconfig: file,
                context,
                ..KubernetesOptions::default()
            }))
        }
    };
    let token = Token::File(token_file.to_owned());
    let mut config = Config::new(kas_address, token, cluster)?;
    config.grace = SHUTDOWN_TIMEOUT;
    Ok(tokio::spawn(async move {
        agentk::run(config, stop, CancellationToken::new())
            .await
            .context("the agent cannot start")
    }))
}
