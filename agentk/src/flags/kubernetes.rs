//! kubectl's flags: which cluster, as whom.

use std::path::PathBuf;

use clap::Args;

use crate::cluster::source::KubernetesOptions;

/// The flags that Kubernetes' command-line programs share.
#[derive(Args)]
#[command(next_help_heading = "Kubernetes")]
pub(super) struct KubernetesFlags {
    /// Path of the kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Cluster in the kubeconfig
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// User in the kubeconfig
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Default namespace
    #[arg(long, short = 'n', value_name = "NAME")]
    namespace: Option<String>,
    /// Address of the API server
    #[arg(long, short = 's', value_name = "URL")]
    server: Option<String>,
    /// Name to verify in the certificate of the API server
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
    /// Do not verify the certificate of the API server (insecure)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    insecure_skip_tls_verify: bool,
    /// File with CA certificates (PEM) for the API server
    #[arg(long, value_name = "FILE")]
    certificate_authority: Option<PathBuf>,
    /// Client certificate (PEM) for the API server
    #[arg(long, value_name = "FILE")]
    client_certificate: Option<PathBuf>,
    /// Client key (PEM) for the API server
    #[arg(long, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// Bearer token for the API server; the agent's token for kas is --token-file
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// User to impersonate
    #[arg(long = "as", value_name = "NAME")]
    impersonate: Option<String>,
    /// UID to impersonate
    #[arg(long = "as-uid", value_name = "UID")]
    impersonate_uid: Option<String>,
    /// Group to impersonate; may be repeated
    #[arg(long = "as-group", value_name = "NAME")]
    impersonate_groups: Vec<String>,
    /// Ignored: requests last as long as their clients want
    #[arg(long, value_name = "DURATION", default_value = "0")]
    request_timeout: String,
    /// Ignored: nothing is cached
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,
    /// Ignored: clients choose compression
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    disable_compression: bool,
}

impl std::fmt::Debug for KubernetesFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KubernetesFlags(…)")
    }
}

impl From<KubernetesFlags> for KubernetesOptions {
    fn from(flags: KubernetesFlags) -> Self {
        let KubernetesFlags {
            kubeconfig,
            context,
            cluster,
            user,
            namespace,
            server,
            tls_server_name,
            insecure_skip_tls_verify,
            certificate_authority,
            client_certificate,
            client_key,
            token,
            impersonate,
            impersonate_uid,
            impersonate_groups,
            request_timeout: _,
            cache_dir: _,
            disable_compression: _,
        } = flags;
        let text = |value: Option<String>| value.filter(|value| !value.is_empty());
        let file = |value: Option<PathBuf>| value.filter(|value| !value.as_os_str().is_empty());
        Self {
            kubeconfig: file(kubeconfig),
            context: text(context),
            cluster: text(cluster),
            user: text(user),
            namespace: text(namespace),
            server: text(server),
            tls_server_name: text(tls_server_name),
            insecure_skip_tls_verify,
            certificate_authority: file(certificate_authority),
            client_certificate: file(client_certificate),
            client_key: file(client_key),
            token: text(token),
            impersonate: text(impersonate),
            impersonate_uid: text(impersonate_uid),
            impersonate_groups,
        }
    }
}
