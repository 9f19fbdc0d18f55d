//! Kubeconfigs: what kubectl needs to reach agents' clusters through kas.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use cluster_state::AgentId;
use http::Uri;
use serde_json::{Value, json};

use crate::{IdentityKind, Token};

/// What stands where somebody puts in a token of their own.
pub const PLACEHOLDER: &str = "YOUR-TOKEN";
/// What kubectl says where the program that logs in is missing.
const INSTALL_HINT: &str = "kas is not installed here: it logs you in to this cluster";

/// A kubeconfig with a context for each of some agents.
#[derive(Debug)]
pub struct Kubeconfig<'a> {
    /// The URL of the Kubernetes API proxy.
    pub server: &'a str,
    /// The CA of its certificate, PEM.
    pub certificate_authority: Option<&'a [u8]>,
    /// The agents; the first is chosen.
    pub contexts: Vec<Context<'a>>,
}

/// How one agent's cluster is reached.
#[derive(Debug)]
pub struct Context<'a> {
    /// The agent.
    pub agent: AgentId,
    /// Its name, and the context's.
    pub name: &'a str,
    /// Who reaches it, as in `user:alice`.
    pub who: String,
    /// By what.
    pub credential: Credential<'a>,
}

/// What kubectl shows to kas.
#[derive(Debug, Clone, Copy)]
pub enum Credential<'a> {
    /// A token, which the file holds then: it is for its owner's eyes only.
    Token(IdentityKind, &'a Token),
    /// What this program prints for whoever is logged in (`kas credential`).
    Exec(&'a Path),
}

/// The text could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the kubeconfig")]
pub struct KubeconfigError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Whether a text can be a kubeconfig's server.
#[must_use]
pub fn is_server(text: &str) -> bool {
    let uri: Option<Uri> = text.parse().ok();
    uri.is_some_and(|uri| {
        uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
    })
}

impl Kubeconfig<'_> {
    /// The text of the file.
    ///
    /// # Errors
    /// When a name cannot be written as YAML.
    pub fn to_yaml(&self) -> Result<String, KubeconfigError> {
        let each = |part: &dyn Fn(&Context<'_>) -> Value| -> Vec<Value> {
            self.contexts.iter().map(part).collect()
        };
        let cluster = self.cluster();
        let current = self.contexts.first().map_or("", |it| it.name);
        let value = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": each(&|it| json!({ "name": it.name, "cluster": cluster })),
            "users": each(&|it| json!({ "name": it.user(), "user": it.credential(self.server) })),
            "contexts": each(&|it| json!({
                "name": it.name,
                "context": { "cluster": it.name, "user": it.user() },
            })),
            "current-context": current,
        });
        serde_saphyr::to_string(&value).map_err(|error| KubeconfigError(error.into()))
    }

    fn cluster(&self) -> Value {
        let mut cluster = json!({ "server": self.server });
        if let Some(pem) = self.certificate_authority {
            cluster["certificate-authority-data"] = STANDARD.encode(pem).into();
        }
        cluster
    }
}

impl Context<'_> {
    fn user(&self) -> String {
        format!("{}@{}", self.who, self.name)
    }

    fn credential(&self, server: &str) -> Value {
        let agent = self.agent;
        match self.credential {
            Credential::Token(kind, token) => {
                let scheme = match kind {
                    IdentityKind::User => "pat",
                    IdentityKind::CiJob => "ci",
                };
                json!({ "token": format!("{scheme}:{agent}:{}", token.expose()) })
            }
            Credential::Exec(command) => json!({ "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": command.display().to_string(),
                "args": ["credential", "--server", server, "--agent", agent.to_string()],
                "interactiveMode": "Never",
                "provideClusterInfo": false,
                "installHint": INSTALL_HINT,
            } }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(credential: Credential<'_>) -> String {
        let kubeconfig = Kubeconfig {
            server: "https://kas.example.com/k8s-proxy/",
            certificate_authority: Some(b"PEM"),
            contexts: vec![Context {
                agent: AgentId(7),
                name: "prod",
                who: "user:ana".to_owned(),
                credential,
            }],
        };
        kubeconfig.to_yaml().unwrap()
    }

    #[test]
    fn it_holds_a_token_or_the_program_that_knows_one() {
        let token = Token::new(PLACEHOLDER);
        let text = with(Credential::Token(IdentityKind::User, &token));
        assert!(text.contains("token: pat:7:YOUR-TOKEN"), "{text}");
        assert!(text.contains("user:ana@prod"), "{text}");
        assert!(text.contains("certificate-authority-data: UEVN"), "{text}");

        let text = with(Credential::Exec(Path::new("kas")));
        assert!(!text.contains("token:"), "{text}");
        assert!(text.contains("command: kas"), "{text}");
        assert!(text.contains("credential"), "{text}");
    }

    #[test]
    fn a_server_is_a_url_of_http() {
        for good in ["https://kas.example.com/k8s-proxy/", "http://[::1]:8154"] {
            assert!(is_server(good), "{good}");
        }
        for bad in ["", "kas", "h:1", "grpc://kas", "https://"] {
            assert!(!is_server(bad), "{bad}");
        }
    }
}
