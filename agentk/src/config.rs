//! The configuration of an agent.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use runtime::{
    connect::{ProxySetting, ProxyUrlError, Target, TargetError},
    tls::{ClientTlsOptions, Identity},
};

use crate::{
    cluster::source::ClusterSource, features::Feature, leader::LeaderOnly, logging::LogLevel,
    pod::Pod, token::Token,
};

/// How long calls in progress may go on when the agent ends, by default: the
/// pod's own grace period is the limit that counts.
const STOP_TIMEOUT: Duration = Duration::from_secs(3600);

/// Connections to kas, by default.
pub(crate) const KAS_CONNECTIONS: usize = 2;

/// Where the agent connects, as whom, and for which cluster.
#[derive(Debug)]
pub struct Config {
    /// Who dials whom.
    pub link: Link,
    /// How kas's certificate is checked.
    pub kas_tls: ClientTlsOptions,
    /// Headers for kas or what stands before it: on the WebSocket upgrade, or
    /// on each call where there is none.
    pub kas_headers: HeaderMap,
    /// HTTP proxy on the way to kas.
    pub kas_proxy: ProxySetting,
    /// How many connections to kas are kept, at least one. With two, the loss
    /// of one leaves another that is ready.
    pub kas_connections: usize,
    /// The agent's token.
    pub token: Token,
    /// How it obtains that where there is none yet.
    pub join: Option<Join>,
    /// The cluster.
    pub cluster: ClusterSource,
    /// HTTP proxy on the way to the Kubernetes API.
    pub kubernetes_proxy: ProxySetting,
    /// The pod, if this is one. Without it there is no leader election.
    pub pod: Option<Pod>,
    /// Metrics and probes.
    pub observability: Option<Observability>,
    /// Where spans of the requests go that kas samples.
    pub tracing: Option<Tracing>,
    /// How long calls in progress may go on after the stop.
    pub grace: Duration,
    /// Features that are switched on.
    pub features: Vec<Feature>,
    /// Work for the pod that leads.
    pub leader_only: Vec<LeaderOnly>,
    /// Applies the log level from the agent's configuration.
    pub log_level: Option<SetLogLevel>,
}

/// How an agent obtains its token.
#[derive(Debug, Clone)]
pub struct Join {
    /// File with the join token.
    pub token_file: PathBuf,
    /// Where its own token is once it has joined.
    pub own_token_file: PathBuf,
    /// The Secret in its namespace from which that file is mounted; `None` if the agent writes the file.
    pub secret: Option<String>,
}

/// How the agent and kas come together.
#[derive(Debug)]
pub enum Link {
    /// The agent dials kas.
    Dial(Target),
    /// kas dials the agent.
    Receive(Box<Receptive>),
}

/// Where kas dials the agent, and how it proves there who it is: by a token that
/// it signs, by a certificate, or both.
#[derive(Debug, Clone, Default)]
pub struct Receptive {
    /// `host:port`, or `:port`.
    pub address: String,
    /// The agent's certificate; without it nothing is encrypted here.
    pub tls: Option<Identity>,
    /// File with the CA (PEM) that must have signed kas's certificate.
    pub client_ca: Option<PathBuf>,
    /// File with the public key of the one with which kas signs.
    pub key: Option<PathBuf>,
    /// How the agent's pods reach each other, if they do.
    pub private_api: Option<PrivateApi>,
}

/// Where the other pods of an agent dial this one, and it dials them.
#[derive(Debug, Clone)]
pub struct PrivateApi {
    /// `host:port`, or `:port`.
    pub address: String,
    /// File with the secret (base64) that all pods of the agent have.
    pub secret: PathBuf,
    /// Where the other pods are.
    pub peers: Peers,
    /// The pods' certificate; without it nothing is encrypted between them.
    pub tls: Option<Identity>,
    /// File with the CA (PEM) of that certificate, besides the system's.
    pub ca: Option<PathBuf>,
}

/// How a pod finds the other ones.
#[derive(Debug, Clone)]
pub enum Peers {
    /// By a name that has the addresses of all pods.
    Name(Target),
    /// By asking the Kubernetes API for pods with these labels, in the agent's namespace.
    Labels {
        /// A label selector, as Kubernetes writes it.
        selector: String,
        /// Their port.
        port: u16,
        /// The name in their certificate.
        server_name: Option<String>,
    },
}

/// Changes the level of the process's logs.
#[derive(Clone)]
pub struct SetLogLevel(pub Arc<dyn Fn(LogLevel) + Send + Sync>);

impl std::fmt::Debug for SetLogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SetLogLevel")
    }
}

/// The listener for metrics and probes.
#[derive(Debug, Clone)]
pub struct Observability {
    /// `host:port`, or `:port`.
    pub address: String,
    /// HTTPS instead of HTTP.
    pub tls: Option<Identity>,
}

/// Where traces go.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// An http or https URL that takes OTLP over HTTP, with its path.
    pub endpoint: String,
    /// File with a token for it.
    pub token: Option<PathBuf>,
    /// File with CA certificates (PEM) for it.
    pub ca: Option<PathBuf>,
}

/// What cannot be a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No address.
    #[error("--kas-address")]
    Address(#[from] TargetError),
    /// No header.
    #[error("--kas-header {0:?}: write it as `Name: value`")]
    Header(String),
    /// Too many headers.
    #[error("--kas-header: there are more of them than a request can hold")]
    Headers,
    /// No proxy.
    #[error("{0}")]
    Proxy(&'static str, #[source] ProxyUrlError),
    /// Two tokens, or none.
    #[error(
        "the agent's token comes either from --token-file or from the environment variable AGENTK_TOKEN; {0}"
    )]
    Token(&'static str),
    /// A join token without what belongs to it.
    #[error("{0}")]
    Join(&'static str),
    /// A pod is needed.
    #[error(
        "the environment variable {0} is not set; in a pod, set it by the downward API (fieldRef {1}); elsewhere, set it to any name"
    )]
    Pod(&'static str, &'static str),
    /// One of a pair of files.
    #[error("--{0}-cert-file and --{0}-key-file go together")]
    CertificatePair(&'static str),
    /// A network that is not supported.
    #[error("--{0}-listen-network {1:?} is not supported; use tcp")]
    Network(&'static str, String),
    /// No URL of a collector.
    #[error("--tracing-otlp-endpoint must be an http:// or https:// URL")]
    Tracing,
    /// Who dials whom is not clear.
    #[error(
        "set either --kas-address, if the agent dials kas, or --api-jwt-file or --api-ca-cert-file, by which kas authenticates if it dials the agent; {0}"
    )]
    Link(&'static str),
    /// Anybody could dial.
    #[error(
        "--api-cert-file needs --api-jwt-file or --api-ca-cert-file: without one of them anybody could pass for kas"
    )]
    NoProof,
    /// Half a private API.
    #[error(
        "--private-api-jwt-file goes together with --private-api-peers, or the environment variable POD_SELECTOR_LABELS, where kas dials the agent"
    )]
    PrivateApi,
    /// No port of pods.
    #[error("the port of the agent's pods, in OWN_PRIVATE_API_URL or --private-api-listen-address")]
    PeersPort,
    /// No name of pods.
    #[error("--private-api-peers")]
    Peers(#[source] TargetError),
    /// Certificates are shown with TLS only.
    #[error("--api-ca-cert-file needs --api-cert-file and --api-key-file")]
    ClientCa,
}

impl Config {
    /// An agent for a cluster, with nothing else set: no proxies, no pod, no
    /// listener.
    ///
    /// # Errors
    /// When the address cannot be dialled.
    pub fn new(
        kas_address: &str,
        token: Token,
        cluster: ClusterSource,
    ) -> Result<Self, ConfigError> {
        let link = Link::Dial(Target::parse(kas_address)?);
        Ok(Self::linked(link, token, cluster))
    }

    /// The same for any link.
    #[must_use]
    pub fn linked(link: Link, token: Token, cluster: ClusterSource) -> Self {
        Self {
            link,
            kas_tls: ClientTlsOptions::default(),
            kas_headers: HeaderMap::new(),
            kas_proxy: ProxySetting::None,
            kas_connections: KAS_CONNECTIONS,
            token,
            join: None,
            cluster,
            kubernetes_proxy: ProxySetting::None,
            pod: None,
            observability: None,
            tracing: None,
            grace: STOP_TIMEOUT,
            features: Vec::new(),
            leader_only: Vec::new(),
            log_level: None,
        }
    }

    /// Trusts the certificates of a file as well as the system's.
    #[must_use]
    pub fn trusting(mut self, ca_file: PathBuf) -> Self {
        self.kas_tls.ca_files.push(ca_file);
        self
    }
}

/// Reads `Name: value`.
pub(crate) fn header(text: &str) -> Result<(HeaderName, HeaderValue), ConfigError> {
    let wrong = || ConfigError::Header(text.split(':').next().unwrap_or_default().to_owned());
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || value.is_empty() {
        return Err(wrong());
    }
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
    let value = HeaderValue::from_str(value).map_err(|_| wrong())?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_cut_at_the_first_colon() {
        let (name, value) = header(" X-Custom :  a:b ").unwrap();

        assert_eq!(
            (name.as_str(), value.to_str().unwrap()),
            ("x-custom", "a:b")
        );
    }

    #[test]
    fn headers_without_name_or_value_are_refused_and_values_not_shown() {
        for wrong in [
            "",
            "name",
            "name:",
            ": secret",
            "na me: secret",
            "name: \u{1}",
        ] {
            let error = header(wrong).unwrap_err().to_string();

            assert!(!error.contains("secret"), "{error}");
        }
    }
}
