//! Agents that kas dials.

use std::{fmt, path::PathBuf, sync::Arc};

use cluster_state::AgentId;

/// An agent that waits to be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceptiveAgent {
    /// Its number.
    pub id: AgentId,
    /// Where it listens: `grpc://`, `grpcs://`, `ws://` or `wss://`.
    pub url: String,
    /// How kas proves who it is.
    pub proof: Proof,
    /// A CA (PEM) that is trusted besides the system's.
    pub ca: Option<Material>,
    /// The name in the agent's certificate, if it is not the URL's host.
    pub server_name: Option<String>,
}

/// How kas proves to an agent who it is: in one of these ways, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// By tokens that it signs with this private key (Ed25519).
    pub jwt: Option<Material>,
    /// By a certificate.
    pub certificate: Option<ClientCertificate>,
}

/// A certificate (PEM) that kas shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate.
    pub certificate: Material,
    /// Its key.
    pub key: Material,
}

/// A key or a certificate; never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Material {
    /// In a file, which is read when it is needed.
    File(PathBuf),
    /// Here.
    Text(Arc<str>),
}

/// Why a key or a certificate cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {error}", path.display())]
pub struct MaterialError {
    path: PathBuf,
    error: std::io::Error,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text(..)"),
        }
    }
}

impl Material {
    /// The text, read now.
    ///
    /// # Errors
    /// When the file cannot be read; the error names it.
    pub async fn read(&self) -> Result<Arc<str>, MaterialError> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => Ok(text.into()),
                Err(error) => Err(MaterialError {
                    path: path.clone(),
                    error,
                }),
            },
        }
    }
}
