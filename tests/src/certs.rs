//! A certificate authority and a server certificate for loopback.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Files of one authority and the server certificate that it signed.
#[derive(Debug, Clone)]
pub struct Certs {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The server's certificate, for `localhost` and `127.0.0.1`.
    pub certificate: PathBuf,
    /// The server's key.
    pub key: PathBuf,
    /// Certificate and key in one file, as HAProxy wants them.
    pub both: PathBuf,
}

impl Certs {
    /// Makes a new authority and writes its files to `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        Self::signed(loopback()?, folder)
    }

    /// The same, with a server certificate whose time is over.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn expired(folder: &Path) -> Result<Self> {
        let mut params = loopback()?;
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        Self::signed(params, folder)
    }

    /// The same, with a server certificate whose time has not come: what a machine sees whose clock is far behind.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn not_yet_valid(folder: &Path) -> Result<Self> {
        let mut params = loopback()?;
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        Self::signed(params, folder)
    }

    /// The same, and certificates for clients, each with this common name (`CN`) and organization (`O`), in files
    /// `NAME.crt` and `NAME.key` of `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn with_clients(folder: &Path, clients: &[(&str, &str)]) -> Result<Self> {
        let (authority, ca) = authority()?;
        let certs = Self::signed_by(&authority, &ca, loopback()?, folder)?;
        for (name, organization) in clients {
            let mut params = CertificateParams::default();
            let subject = &mut params.distinguished_name;
            subject.push(DnType::CommonName, *name);
            subject.push(DnType::OrganizationName, *organization);
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &authority)?.pem();
            std::fs::write(folder.join(format!("{name}.crt")), certificate)?;
            std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
        }
        Ok(certs)
    }

    fn signed(params: CertificateParams, folder: &Path) -> Result<Self> {
        let (authority, ca) = authority()?;
        Self::signed_by(&authority, &ca, params, folder)
    }

    fn signed_by(
        authority: &Issuer<'static, KeyPair>,
        ca: &str,
        params: CertificateParams,
        folder: &Path,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, authority)?.pem();
        let write = |name: &str, text: &str| {
            let file = folder.join(name);
            std::fs::write(&file, text).with_context(|| format!("cannot write {name}"))?;
            anyhow::Ok(file)
        };
        Ok(Self {
            ca: write("ca.crt", ca)?,
            certificate: write("server.crt", &certificate)?,
            key: write("server.key", &key.serialize_pem())?,
            both: write("both.pem", &format!("{certificate}{}", key.serialize_pem()))?,
        })
    }
}

fn loopback() -> Result<CertificateParams> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    Ok(CertificateParams::new(names)?)
}

fn authority() -> Result<(Issuer<'static, KeyPair>, String)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "kas tests");
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok((Issuer::new(params, key), pem))
}
