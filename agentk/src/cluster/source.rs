//! Which cluster it is: kubeconfig, flags, or the pod's own.

use std::path::{Path, PathBuf};

use http::Uri;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use runtime::connect::{ProxySetting, ProxyUrl};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{CertificatesError, ClusterError};

/// Where the cluster is.
#[derive(Debug, Clone)]
pub enum ClusterSource {
    /// A server that asks for no credentials.
    Server(String),
    /// As kubectl finds it.
    Options(Box<KubernetesOptions>),
}

/// kubectl's flags. What is not given comes from the kubeconfig.
#[derive(Clone, Default)]
#[allow(missing_docs, reason = "named after the flags")]
pub struct KubernetesOptions {
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
    pub cluster: Option<String>,
    pub user: Option<String>,
    pub namespace: Option<String>,
    pub server: Option<String>,
    pub tls_server_name: Option<String>,
    pub insecure_skip_tls_verify: bool,
    pub certificate_authority: Option<PathBuf>,
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub token: Option<String>,
    pub impersonate: Option<String>,
    pub impersonate_uid: Option<String>,
    pub impersonate_groups: Vec<String>,
}

impl std::fmt::Debug for KubernetesOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesOptions")
            .field("kubeconfig", &self.kubeconfig)
            .field("context", &self.context)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl ClusterSource {
    /// Reads kubeconfig or service account.
    ///
    /// # Errors
    /// [`ClusterError`], saying what to look at.
    pub async fn load(&self) -> Result<kube::Config, ClusterError> {
        match self {
            Self::Server(url) => Ok(kube::Config::new(server(url)?)),
            Self::Options(options) => options.load().await,
        }
    }
}

impl KubernetesOptions {
    async fn load(&self) -> Result<kube::Config, ClusterError> {
        let config = match self.kubeconfig()? {
            Some(kubeconfig) => {
                let choice = KubeConfigOptions {
                    context: self.context.clone(),
                    cluster: self.cluster.clone(),
                    user: self.user.clone(),
                };
                kube::Config::from_custom_kubeconfig(kubeconfig, &choice).await?
            }
            None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => {
                kube::Config::incluster_env()?
            }
            None => match &self.server {
                Some(url) => kube::Config::new(server(url)?),
                None => return Err(ClusterError::NotFound),
            },
        };
        self.applied(config)
    }

    fn kubeconfig(&self) -> Result<Option<Kubeconfig>, ClusterError> {
        if let Some(file) = &self.kubeconfig {
            return Ok(Some(Kubeconfig::read_from(file)?));
        }
        if std::env::var_os("KUBECONFIG").is_some_and(|files| !files.is_empty()) {
            return Ok(Kubeconfig::from_env()?);
        }
        let usual = std::env::home_dir().map(|home| home.join(".kube/config"));
        match usual.filter(|file| file.is_file()) {
            Some(file) => Ok(Some(Kubeconfig::read_from(file)?)),
            None => Ok(None),
        }
    }

    /// The configuration with what flags say in its place.
    pub(super) fn applied(&self, mut config: kube::Config) -> Result<kube::Config, ClusterError> {
        if let Some(url) = &self.server {
            config.cluster_url = server(url)?;
        }
        if let Some(namespace) = &self.namespace {
            config.default_namespace.clone_from(namespace);
        }
        if let Some(name) = &self.tls_server_name {
            config.tls_server_name = Some(name.clone());
        }
        if self.insecure_skip_tls_verify {
            config.accept_invalid_certs = true;
        }
        if let Some(file) = &self.certificate_authority {
            config.root_cert = Some(certificates(file)?);
            config.root_cert_file = None;
        }
        self.apply_user(&mut config.auth_info);
        Ok(config)
    }

    fn apply_user(&self, user: &mut AuthInfo) {
        if let Some(file) = &self.client_certificate {
            user.client_certificate = Some(file.display().to_string());
            user.client_certificate_data = None;
        }
        if let Some(file) = &self.client_key {
            user.client_key = Some(file.display().to_string());
            user.client_key_data = None;
        }
        if let Some(token) = &self.token {
            user.token = Some(token.clone().into());
            (user.auth_provider, user.exec, user.username, user.password) =
                (None, None, None, None);
        }
        if let Some(name) = &self.impersonate {
            user.impersonate = Some(name.clone());
        }
        if let Some(uid) = &self.impersonate_uid {
            user.impersonate_uid = Some(uid.clone());
        }
        if !self.impersonate_groups.is_empty() {
            user.impersonate_groups = Some(self.impersonate_groups.clone());
        }
        // A plugin has no business with the agent's token.
        if let Some(exec) = &mut user.exec {
            exec.drop_env
                .get_or_insert_default()
                .push("AGENTK_TOKEN".to_owned());
        }
    }
}

/// The proxy that a flag or the kubeconfig names; the environment's otherwise.
pub(crate) fn proxy(
    flag: ProxySetting,
    config: &kube::Config,
) -> Result<ProxySetting, ClusterError> {
    match (&config.proxy_url, flag) {
        (_, flag @ ProxySetting::Url(_)) => Ok(flag),
        (Some(url), ProxySetting::None | ProxySetting::Environment(_)) => {
            Ok(ProxySetting::Url(ProxyUrl::parse(&url.to_string())?))
        }
        (None, flag @ (ProxySetting::None | ProxySetting::Environment(_))) => Ok(flag),
    }
}

fn server(url: &str) -> Result<Uri, ClusterError> {
    let with_scheme = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let parsed = with_scheme.parse::<Uri>();
    parsed.map_err(|error| ClusterError::Server(url.to_owned(), error.into()))
}

fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, ClusterError> {
    read_certificates(file)
        .map_err(|error| ClusterError::Certificates(file.display().to_string(), error))
}

fn read_certificates(file: &Path) -> Result<Vec<Vec<u8>>, CertificatesError> {
    let pem = std::fs::read(file)?;
    let found = CertificateDer::pem_slice_iter(&pem)
        .map(|certificate| certificate.map(|it| it.to_vec()))
        .collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() {
        return Err(CertificatesError::Empty);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::telemetry::Causes;

    use crate::cluster::identity::identity;

    const KUBECONFIG: &str = "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
        clusters:\n- name: c\n  cluster: {server: 'https://c.example:6443/prefix'}\n\
        users:\n- name: u\n  user: {token: secret, as: admin}\n\
        contexts:\n- name: a\n  context: {cluster: c, user: u}\n";

    async fn load(change: impl FnOnce(&mut KubernetesOptions)) -> kube::Config {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), KUBECONFIG).unwrap();
        let mut options = KubernetesOptions {
            kubeconfig: Some(file.path().into()),
            ..KubernetesOptions::default()
        };
        change(&mut options);
        ClusterSource::Options(Box::new(options))
            .load()
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_kubeconfig_is_read() {
        let config = load(|_| {}).await;

        assert_eq!(config.cluster_url, "https://c.example:6443/prefix");
        assert_eq!(
            identity(&config.auth_info).unwrap()["impersonate-user"],
            "admin"
        );
    }

    #[tokio::test]
    async fn flags_win_over_the_kubeconfig() {
        let config = load(|options| {
            options.server = Some("http://other".into());
            options.impersonate_groups = vec!["g1".into(), "g2".into()];
            options.tls_server_name = Some("name".into());
        })
        .await;

        assert_eq!(config.cluster_url, "http://other");
        assert_eq!(config.tls_server_name.as_deref(), Some("name"));
        let identity = identity(&config.auth_info).unwrap();
        assert_eq!(identity.get_all("impersonate-group").iter().count(), 2);
    }

    #[tokio::test]
    async fn a_lone_uid_impersonates_nobody() {
        let user = AuthInfo {
            impersonate_uid: Some("1".into()),
            ..AuthInfo::default()
        };

        assert!(identity(&user).unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let options = KubernetesOptions {
            kubeconfig: Some("/nonexistent/config".into()),
            ..KubernetesOptions::default()
        };

        let error = ClusterSource::Options(Box::new(options))
            .load()
            .await
            .unwrap_err();

        let error = Causes(&error).to_string();
        assert!(error.contains("/nonexistent/config"), "{error}");
    }
}
