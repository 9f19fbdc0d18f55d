//! The agent of `kas up`.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::accounts::Accounts;

/// The cluster that the agent serves.
#[derive(Debug)]
pub(super) enum Upstream {
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
pub(super) type Running = tokio::task::JoinHandle<anyhow::Result<()>>;

pub(super) fn start(
    _kas_address: &str,
    _accounts: &Accounts,
    _upstream: &Upstream,
    stop: CancellationToken,
) -> anyhow::Result<Running> {
    Ok(tokio::spawn(async move {
        stop.cancelled().await;
        Ok(())
    }))
}
