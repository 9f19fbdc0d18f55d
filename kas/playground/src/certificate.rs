//! A certificate for the users' port of `kas up`: kubectl sends credentials
//! only over TLS.

use std::path::Path;

use anyhow::Context;
use rcgen::{CertificateParams, KeyPair};
use runtime::tls::{H2, HTTP_1_1, Identity, ServerTls};

/// TLS for the users' port, and what a kubeconfig says to trust.
#[derive(Debug)]
pub struct Certificate {
    /// For the listeners.
    pub tls: ServerTls,
    /// The certificate, PEM.
    pub pem: Vec<u8>,
}

/// The certificate kept in the data directory; a new one if there is none.
///
/// # Errors
/// When it cannot be read, made or written; the message names the file.
pub fn prepare(data: &Path) -> anyhow::Result<Certificate> {
    let identity = Identity {
        certificate: data.join("tls.crt"),
        key: data.join("tls.key"),
    };
    if !identity.certificate.exists() || !identity.key.exists() {
        generate(&identity.certificate, &identity.key)?;
    }
    let pem = std::fs::read(&identity.certificate)
        .with_context(|| format!("cannot read {}", identity.certificate.display()))?;
    let tls = ServerTls::load(identity, &[H2, HTTP_1_1])?;
    Ok(Certificate { tls, pem })
}

fn generate(certificate: &Path, key: &Path) -> anyhow::Result<()> {
    let made = || -> Result<_, rcgen::Error> {
        let pair = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let signed = CertificateParams::new(names)?.self_signed(&pair)?;
        Ok((signed.pem(), pair.serialize_pem()))
    };
    let (signed, pair) = made().context("cannot make a certificate")?;
    crate::private_file::write(key, &pair)?;
    crate::private_file::write(certificate, &signed)
}
