//! Certificates and keys in PEM files, with errors that name the file.

use std::path::{Path, PathBuf};

use rustls::{RootCertStore, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{TlsError, provider};

/// The files of a certificate chain and of its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM file: the certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM file: the private key.
    pub key: PathBuf,
}

impl Identity {
    /// Reads both files and checks that they go together.
    pub(super) fn load(&self) -> Result<CertifiedKey, TlsError> {
        let chain = certificates("certificate", &self.certificate)?;
        let key = private_key(&self.key)?;
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| TlsError::Pair {
            certificate: self.certificate.display().to_string(),
            key: self.key.display().to_string(),
            error,
        })
    }
}

/// Adds all certificates of a file to the trusted roots.
pub(super) fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    const WHAT: &str = "CA certificate";
    for certificate in certificates(WHAT, path)? {
        roots
            .add(certificate)
            .map_err(|error| content(WHAT, path, error))?;
    }
    Ok(())
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(what, path)?;
    let found = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(what, path, error))?;
    if found.is_empty() {
        return Err(content(what, path, "it has no PEM certificate"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    const WHAT: &str = "private key";
    let pem = read(WHAT, path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => {
            content(WHAT, path, "it has no unencrypted PEM private key")
        }
        other => content(WHAT, path, other),
    })
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Read {
        what,
        path: path.display().to_string(),
        error,
    })
}

fn content(what: &'static str, path: &Path, why: impl ToString) -> TlsError {
    TlsError::Content {
        what,
        path: path.display().to_string(),
        why: why.to_string(),
    }
}
