//! Flags of an agent that kas dials.

use std::path::PathBuf;

use clap::Args;

use super::{address, given, identity};
use crate::config::{ConfigError, Receptive};

/// How kas dials the agent.
#[derive(Debug, Args)]
pub(super) struct ReceptiveFlags {
    /// Network of the listener that kas dials
    #[arg(long, value_name = "NETWORK", default_value = "tcp")]
    api_listen_network: String,
    /// Address of the listener that kas dials
    #[arg(long, value_name = "ADDRESS", default_value = ":8082")]
    api_listen_address: String,
    /// Certificate (PEM) of the listener that kas dials
    #[arg(long, value_name = "FILE")]
    api_cert_file: Option<PathBuf>,
    /// Private key (PEM) of the listener that kas dials
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// File with the CA (PEM) of the certificate that kas must show
    #[arg(long, value_name = "FILE")]
    api_ca_cert_file: Option<PathBuf>,
    /// File with the public key (Ed25519) of the one with which kas signs its tokens
    #[arg(long, value_name = "FILE")]
    api_jwt_file: Option<PathBuf>,
}

impl ReceptiveFlags {
    /// Where kas dials the agent, if that is what the flags ask for: when they
    /// say how kas proves who it is.
    pub(super) fn into_config(self) -> Result<Option<Receptive>, ConfigError> {
        let tls = identity(self.api_cert_file, self.api_key_file, "api")?;
        let (client_ca, key) = (given(self.api_ca_cert_file), given(self.api_jwt_file));
        if client_ca.is_some() && tls.is_none() {
            return Err(ConfigError::ClientCa);
        }
        if client_ca.is_none() && key.is_none() {
            return match tls {
                None => Ok(None),
                Some(_) => Err(ConfigError::NoProof),
            };
        }
        Ok(Some(Receptive {
            address: address(&self.api_listen_network, self.api_listen_address, "api")?,
            tls,
            client_ca,
            key,
        }))
    }
}
