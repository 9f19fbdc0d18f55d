//! The section of an agent that is dialled.

use std::path::PathBuf;

use cluster_state::AgentId;
use runtime::connect::Target;
use serde::{Deserialize, Serialize};

use crate::{ClientCertificate, Material, Proof, ReceptiveAgent};

/// Where an agent waits to be dialled, and how kas proves who it is: by `jwt` or
/// by `mtls`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceptiveEntry {
    /// `grpc://`, `grpcs://`, `ws://` or `wss://`.
    pub url: String,
    /// By tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtEntry>,
    /// By a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsEntry>,
    /// A CA that is trusted besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificate_file: Option<PathBuf>,
    /// The name in the agent's certificate, if it is not the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
}

/// The key that signs tokens.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtEntry {
    /// An Ed25519 key: PEM, or base64.
    pub private_key_file: PathBuf,
}

/// The certificate that is shown.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MtlsEntry {
    /// PEM.
    pub certificate_file: PathBuf,
    /// PEM.
    pub key_file: PathBuf,
}

impl ReceptiveEntry {
    /// What is wrong with it, if anything is.
    pub(super) fn mistake(&self) -> Option<String> {
        let target = match Target::parse(&self.url) {
            Ok(target) => target,
            Err(error) => return Some(error.to_string()),
        };
        let tls = target.scheme().is_tls();
        let needless = self.ca_certificate_file.is_some() || self.tls_server_name.is_some();
        match (&self.jwt, &self.mtls) {
            (None, None) => Some("it needs jwt or mtls: how kas proves who it is".to_owned()),
            (Some(_), Some(_)) => Some("it has both jwt and mtls, it needs one".to_owned()),
            (None, Some(_)) if !tls => Some("mtls needs a grpcs:// or wss:// URL".to_owned()),
            _ if needless && !tls => Some(
                "ca_certificate_file and tls_server_name are for grpcs:// and wss:// URLs"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// What is dialled; nothing if there is a [`mistake`](Self::mistake).
    pub(super) fn agent(&self, id: AgentId) -> Option<ReceptiveAgent> {
        let file = |path: &PathBuf| Material::File(path.clone());
        if self.jwt.is_none() && self.mtls.is_none() {
            return None;
        }
        let certificate = self.mtls.as_ref().map(|mtls| ClientCertificate {
            certificate: file(&mtls.certificate_file),
            key: file(&mtls.key_file),
        });
        let proof = Proof {
            jwt: self.jwt.as_ref().map(|jwt| file(&jwt.private_key_file)),
            certificate,
        };
        Some(ReceptiveAgent {
            id,
            url: self.url.clone(),
            proof,
            ca: self.ca_certificate_file.as_ref().map(file),
            server_name: self.tls_server_name.clone(),
        })
    }
}
