//! The sections of the configuration that are this crate's: `agent.kubernetes_api` and `agent.graph`.

mod browsers;
mod proxies;

use std::path::PathBuf;

use runtime::{
    listen::Network,
    listens, section,
    yaml::{At, PositiveSeconds, Seconds, Setting, YamlError, check_url_path},
};
use serde::{Deserialize, Deserializer, Serialize};

pub use browsers::{Origin, ResponseHeader};
pub use proxies::ProxyNetwork;

section! {
    /// The Kubernetes API proxy.
    pub struct KubernetesApi: Default {
        /// Where users connect.
        pub listen: KubernetesApiListen = KubernetesApiListen::default(),
        /// The path it is served under; ends in `/`.
        pub url_path_prefix: PathPrefix = PathPrefix("/".to_owned()),
        /// The origins whose pages may use cookies and WebSocket tokens; without any, GitLab's, or without a GitLab
        /// the host that is called. Not among the keys of GitLab's kas.
        pub allowed_origins: Vec<Origin> = Vec::new(),
        /// Headers that clusters' answers may carry besides those of Kubernetes.
        pub extra_allowed_response_headers: Vec<ResponseHeader> = Vec::new(),
        /// How long an upgraded connection (exec, attach, port-forward) whose tunnel broke may take to be resumed on
        /// another one, and the answer to a write be looked for (30 s at most), with an agent that can; zero does
        /// neither. Not among the keys of GitLab's kas.
        pub upgrade_resume_timeout: Seconds = Seconds::new(60),
        /// Proxies that are believed where a request comes from (`X-Forwarded-For`). Not among the keys of GitLab's
        /// kas.
        pub trusted_proxies: Vec<ProxyNetwork> = Vec::new(),
        /// How long a permission is remembered; zero does not remember.
        pub allowed_agent_cache_ttl: Seconds = Seconds::new(60),
        /// How long a refusal is remembered.
        pub allowed_agent_cache_error_ttl: PositiveSeconds = PositiveSeconds::new(10),
        /// The secret of tokens for browsers' WebSockets; without it none are given.
        pub websocket_token_secret_file: Option<PathBuf> = None,
    }
    check = check_prefix;
}

section! {
    /// Where users connect.
    pub struct KubernetesApiListen: Default {
        /// The kind of socket.
        pub network: Network = Network::default(),
        /// The socket.
        pub address: String = Self::DEFAULT_ADDRESS.to_owned(),
        /// The certificate, for TLS.
        pub certificate_file: Option<PathBuf> = None,
        /// Its key.
        pub key_file: Option<PathBuf> = None,
        /// Whether connections begin with a PROXY header (v1 or v2). Not among the keys of GitLab's kas.
        pub proxy_protocol: bool = false,
        /// How long to accept on after the signal to stop.
        pub listen_grace_period: PositiveSeconds = PositiveSeconds::new(5),
        /// How long to wait for requests in flight after that.
        pub shutdown_grace_period: PositiveSeconds = PositiveSeconds::new(3600),
    }
    check = check_listener;
}
listens!(KubernetesApiListen, "0.0.0.0:8154");

section! {
    /// Watches of clusters' objects. Not among the keys of GitLab's kas.
    pub struct Graph: Default {
        /// Whether they are served.
        pub enabled: bool = true,
    }
}

/// A path that URLs start with, as far as a `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathPrefix(pub String);

impl<'de> Deserialize<'de> for PathPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut path = String::deserialize(deserializer)?;
        if path.starts_with('/') && !path.ends_with('/') {
            path.push('/');
        }
        Ok(Self(path))
    }
}

impl Setting for PathPrefix {
    fn is_given(&self) -> bool {
        !self.0.is_empty()
    }
}

impl KubernetesApi {
    fn check_prefix(&self, at: &At<'_>) -> Result<(), YamlError> {
        let list = at.key("extra_allowed_response_headers");
        let headers = self.extra_allowed_response_headers.iter();
        for header in headers.filter(|it| !it.passes()) {
            list.key(header.0.as_str())
                .note("no cluster may set it on the host of this server");
        }
        check_url_path(&at.key("url_path_prefix"), &self.url_path_prefix.0)
    }
}
