//! The keys that all listeners have in common: a socket, and a certificate with its key.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::yaml::{At, Setting, YamlError};

/// What a listener is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// The kind of socket.
    pub network: Network,
    /// `host:port`, or a path for [`Network::Unix`].
    pub address: String,
}

/// The kinds of sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// TCP over IPv4 or IPv6.
    #[default]
    Tcp,
    /// TCP over IPv4 only.
    Tcp4,
    /// TCP over IPv6 only.
    Tcp6,
    /// A socket in the file system.
    Unix,
}

impl Setting for Network {}

impl ListenAddress {
    /// The address as `host:port` with an empty host meaning all interfaces.
    #[must_use]
    pub fn host_port(&self) -> String {
        if self.address.starts_with(':') {
            let host = if self.network == Network::Tcp4 {
                "0.0.0.0"
            } else {
                "[::]"
            };
            format!("{host}{}", self.address)
        } else {
            self.address.clone()
        }
    }

    /// The socket address, when the host is given as a number.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.host_port().parse().ok()
    }
}

/// A certificate and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub certificate_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// A section that says where to listen.
pub trait Listens {
    /// What to bind.
    fn socket(&self) -> ListenAddress;

    /// TLS, if any.
    fn tls(&self) -> Option<TlsFiles>;
}

/// Implements [`Listens`](crate::listen::Listens) for a section with the four keys of listeners, and the rules for
/// them.
#[macro_export]
macro_rules! listens {
    ($section:ident, $default:literal) => {
        impl $crate::listen::Listens for $section {
            fn socket(&self) -> $crate::listen::ListenAddress {
                $crate::listen::ListenAddress {
                    network: self.network,
                    address: self.address.clone(),
                }
            }

            fn tls(&self) -> Option<$crate::listen::TlsFiles> {
                $crate::listen::tls_files(
                    self.certificate_file.as_deref(),
                    self.key_file.as_deref(),
                )
            }
        }

        impl $section {
            const DEFAULT_ADDRESS: &str = $default;

            fn check_listener(
                &self,
                at: &$crate::yaml::At<'_>,
            ) -> Result<(), $crate::yaml::YamlError> {
                let (certificate, key) =
                    (self.certificate_file.as_deref(), self.key_file.as_deref());
                $crate::listen::check_pair(at, certificate, key)?;
                $crate::listen::check_address(
                    at,
                    self.network,
                    &self.address,
                    Self::DEFAULT_ADDRESS,
                )
            }
        }
    };
}
/// The files of a certificate and its key, if both are given.
#[must_use]
pub fn tls_files(certificate: Option<&Path>, key: Option<&Path>) -> Option<TlsFiles> {
    Some(TlsFiles {
        certificate_file: certificate?.to_owned(),
        key_file: key?.to_owned(),
    })
}

/// Refuses one of a certificate and its key without the other.
///
/// # Errors
/// Which of them is missing.
pub fn check_pair(
    at: &At<'_>,
    certificate: Option<&Path>,
    key: Option<&Path>,
) -> Result<(), YamlError> {
    let missing = match (certificate, key) {
        (Some(_), Some(_)) | (None, None) => return Ok(()),
        (Some(_), None) => "key_file",
        (None, Some(_)) => "certificate_file",
    };
    Err(at.mistake(format!(
        "{}: TLS needs both certificate_file and key_file, but {missing} is missing",
        at.path()
    )))
}

/// Refuses an address without a port, unless it is the path of a socket.
///
/// # Errors
/// The address, and `example`.
pub fn check_address(
    at: &At<'_>,
    network: Network,
    address: &str,
    example: &str,
) -> Result<(), YamlError> {
    if network == Network::Unix || has_port(address) {
        return Ok(());
    }
    Err(at.mistake(format!(
        "the address `{address}` must be host:port, such as {example}"
    )))
}

fn has_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}
