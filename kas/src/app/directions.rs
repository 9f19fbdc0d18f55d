//! What each port answers to requests that belong to another.

use crate::config::{Config, Listens as _};

/// What is served at the agents' port.
const AGENTS: &str = "Agents connect here, by gRPC or WebSocket.";
/// What is served at GitLab's port.
const GITLAB: &str = "This is the port that GitLab calls, for gRPC.";

/// The sentences of these answers.
#[derive(Debug)]
pub(super) struct Directions {
    kubernetes_api: String,
}

impl Directions {
    /// To the ports that are configured.
    pub(super) fn new(config: &Config) -> Self {
        Self {
            kubernetes_api: to_kubernetes_api(config),
        }
    }

    /// From the agents' port.
    pub(super) fn agents(&self) -> String {
        format!("{AGENTS} {}", self.kubernetes_api)
    }

    /// From GitLab's port.
    pub(super) fn gitlab(&self) -> String {
        format!("{GITLAB} {}", self.kubernetes_api)
    }

    /// From a port that says itself what it serves.
    pub(super) fn kubernetes_api(&self) -> String {
        self.kubernetes_api.clone()
    }
}

fn to_kubernetes_api(config: &Config) -> String {
    let Some(users) = &config.agent.kubernetes_api else {
        return "The Kubernetes API is not served: agent.kubernetes_api is not configured."
            .to_owned();
    };
    let address = users.listen.socket().host_port();
    let port = address.rsplit(':').next().unwrap_or_default();
    let scheme = if users.listen.tls().is_some() {
        "https"
    } else {
        "http"
    };
    let path = &users.url_path_prefix.0;
    format!("The Kubernetes API is served on port {port}, by {scheme}, under {path}.")
}
