//! Flags of an agent that kas dials, and of its pods' private API.

use std::path::PathBuf;

use clap::Args;
use runtime::connect::Target;

use super::{address, given, identity};
use crate::config::{ConfigError, Peers, PrivateApi, Receptive};

/// Labels that all pods of the agent have, as a label selector.
const SELECTOR: &str = "POD_SELECTOR_LABELS";
/// Where other pods reach this one.
const OWN_URL: &str = "OWN_PRIVATE_API_URL";
/// The name in the pods' certificate.
const OWN_HOST: &str = "OWN_PRIVATE_API_HOST";

/// How kas dials the agent.
#[derive(Debug, Args)]
pub(super) struct ReceptiveFlags {
    /// Network on which the agent listens for kas
    #[arg(long, value_name = "NETWORK", default_value = "tcp")]
    api_listen_network: String,
    /// Address on which the agent listens for kas
    #[arg(long, value_name = "ADDRESS", default_value = ":8082")]
    api_listen_address: String,
    /// Certificate (PEM) of the listener for kas
    #[arg(long, value_name = "FILE")]
    api_cert_file: Option<PathBuf>,
    /// Private key (PEM) of the listener for kas
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// CA certificate (PEM) that must have signed the client certificate of kas
    #[arg(long, value_name = "FILE")]
    api_ca_cert_file: Option<PathBuf>,
    /// Ed25519 public key that verifies the tokens of kas
    #[arg(long, value_name = "FILE")]
    api_jwt_file: Option<PathBuf>,
    #[command(flatten)]
    private_api: PrivateApiFlags,
}

/// How the agent's pods reach each other.
#[derive(Debug, Args)]
struct PrivateApiFlags {
    /// Network on which the agent listens for its other pods
    #[arg(long, value_name = "NETWORK", default_value = "tcp")]
    private_api_listen_network: String,
    /// Address on which the agent listens for its other pods
    #[arg(long, value_name = "ADDRESS", default_value = ":8081")]
    private_api_listen_address: String,
    /// Certificate (PEM) of the listener for other pods of the agent
    #[arg(long, value_name = "FILE")]
    private_api_cert_file: Option<PathBuf>,
    /// Private key (PEM) of the listener for other pods of the agent
    #[arg(long, value_name = "FILE")]
    private_api_key_file: Option<PathBuf>,
    /// CA certificate (PEM) of the other pods' certificates
    #[arg(long, value_name = "FILE")]
    private_api_ca_cert_file: Option<PathBuf>,
    /// File with the secret (base64) shared by the pods of the agent
    #[arg(long, value_name = "FILE")]
    private_api_jwt_file: Option<PathBuf>,
    /// Address of the other pods: a DNS name with the addresses of all pods of the agent
    #[arg(long, value_name = "HOST:PORT")]
    private_api_peers: Option<String>,
}

impl ReceptiveFlags {
    /// How kas dials the agent; `None` unless the flags say how kas authenticates.
    pub(super) fn into_config(
        self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Receptive>, ConfigError> {
        let tls = identity(self.api_cert_file, self.api_key_file, "api")?;
        let (client_ca, key) = (given(self.api_ca_cert_file), given(self.api_jwt_file));
        if client_ca.is_some() && tls.is_none() {
            return Err(ConfigError::ClientCa);
        }
        let private_api = self.private_api.into_config(variable)?;
        if client_ca.is_none() && key.is_none() {
            return match (tls, private_api) {
                (None, None) => Ok(None),
                (Some(_), _) => Err(ConfigError::NoProof),
                (None, Some(_)) => Err(ConfigError::PrivateApi),
            };
        }
        Ok(Some(Receptive {
            address: address(&self.api_listen_network, self.api_listen_address, "api")?,
            tls,
            client_ca,
            key,
            private_api,
        }))
    }
}

impl PrivateApiFlags {
    fn into_config(
        self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<PrivateApi>, ConfigError> {
        let flags = "private-api";
        let tls = identity(self.private_api_cert_file, self.private_api_key_file, flags)?;
        let name = self.private_api_peers.filter(|peers| !peers.is_empty());
        // GitLab's chart sets it for each receptive agent; without a secret there is no private API.
        let given_variable = |name| variable(name).filter(|value: &String| !value.is_empty());
        let labels = given_variable(SELECTOR);
        let secret = match (given(self.private_api_jwt_file), &name, &labels) {
            (None, None, _) if tls.is_none() => return Ok(None),
            (Some(secret), Some(_), _) | (Some(secret), None, Some(_)) => secret,
            (None, _, _) | (Some(_), None, None) => return Err(ConfigError::PrivateApi),
        };
        let peers = match (name, labels) {
            (Some(name), _) => {
                let scheme = if tls.is_some() { "grpcs" } else { "grpc" };
                let name = Target::parse(&format!("{scheme}://{name}"));
                Peers::Name(name.map_err(ConfigError::Peers)?)
            }
            (None, labels) => Peers::Labels {
                selector: labels.unwrap_or_default(),
                port: port(
                    given_variable(OWN_URL).as_deref(),
                    &self.private_api_listen_address,
                )?,
                server_name: given_variable(OWN_HOST),
            },
        };
        Ok(Some(PrivateApi {
            address: address(
                &self.private_api_listen_network,
                self.private_api_listen_address,
                flags,
            )?,
            secret,
            peers,
            tls,
            ca: given(self.private_api_ca_cert_file),
        }))
    }
}

/// The port at which pods of the agent listen for each other.
fn port(own_url: Option<&str>, listens: &str) -> Result<u16, ConfigError> {
    let end = |text: &str| text.rsplit(':').next().and_then(|port| port.parse().ok());
    let of_url = own_url.and_then(|url| end(url.trim_end_matches('/')));
    of_url
        .or_else(|| end(listens))
        .ok_or(ConfigError::PeersPort)
}
