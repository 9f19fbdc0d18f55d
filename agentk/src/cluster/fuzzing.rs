//! kubeconfigs, for the fuzz targets (`tests/fuzz`).

use kube::config::{KubeConfigOptions, Kubeconfig};

use super::{ClusterError, source::KubernetesOptions};

/// Reads the text of a kubeconfig as the agent does; where its cluster is. Files that it names are read too.
///
/// # Errors
/// What is wrong with it.
pub async fn read_kubeconfig(text: &str) -> Result<String, ClusterError> {
    let kubeconfig = Kubeconfig::from_yaml(text)?;
    let choice = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &choice).await?;
    let config = KubernetesOptions::default().applied(config)?;
    Ok(config.cluster_url.to_string())
}
