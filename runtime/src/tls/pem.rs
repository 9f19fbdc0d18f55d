//! Certificates and keys in PEM files, with errors that name the file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{RootCertStore, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{TlsError, provider};
use crate::reloads;

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
        let not_after = not_after(&chain);
        let key =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|error| TlsError::Pair {
                certificate: self.certificate.display().to_string(),
                key: self.key.display().to_string(),
                error,
            })?;
        reloads::succeeded(&self.certificate);
        if let Some(not_after) = not_after {
            reloads::certificate(&self.certificate, not_after);
        }
        Ok(key)
    }
}

/// When the first certificate of a chain ends, in seconds since 1970.
fn not_after(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let ends = chain.iter().filter_map(|der| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        Some(certificate.validity().not_after.timestamp())
    });
    ends.min()
}

/// A certificate chain and its private key, as texts; never printed.
#[derive(Clone)]
pub struct PemPair {
    /// PEM: the certificate, then its intermediates.
    pub certificate: Arc<str>,
    /// PEM: the private key.
    pub key: Arc<str>,
}

impl std::fmt::Debug for PemPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PemPair(..)")
    }
}

/// What errors call a text that is in no file.
const GIVEN: &str = "(a text)";

impl PemPair {
    /// Checks that both go together.
    pub(super) fn load(&self) -> Result<CertifiedKey, TlsError> {
        let given = Path::new(GIVEN);
        let chain = certificates_of("certificate", given, self.certificate.as_bytes())?;
        let key = private_key_of(given, self.key.as_bytes())?;
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| TlsError::Pair {
            certificate: GIVEN.to_owned(),
            key: GIVEN.to_owned(),
            error,
        })
    }
}

const CA: &str = "CA certificate";
const KEY: &str = "private key";

/// Adds all certificates of a file to the trusted roots.
pub(super) fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    add(roots, path, certificates(CA, path)?)
}

/// Adds all certificates of a text to the trusted roots.
pub(super) fn add_roots_of(roots: &mut RootCertStore, pem: &str) -> Result<(), TlsError> {
    let given = Path::new(GIVEN);
    add(roots, given, certificates_of(CA, given, pem.as_bytes())?)
}

fn add(
    roots: &mut RootCertStore,
    path: &Path,
    certificates: Vec<CertificateDer<'static>>,
) -> Result<(), TlsError> {
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| content(CA, path, error))?;
    }
    Ok(())
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates_of(what, path, &read(what, path)?)
}

fn certificates_of(
    what: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(what, path, error))?;
    if found.is_empty() {
        return Err(content(what, path, "it has no PEM certificate"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    private_key_of(path, &read(KEY, path)?)
}

fn private_key_of(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => {
            content(KEY, path, "it has no unencrypted PEM private key")
        }
        other => content(KEY, path, other),
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
