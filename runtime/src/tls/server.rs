//! TLS for listeners; certificates that change are picked up.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::{
    RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::time::Instant;

use super::{Identity, TlsError, pem, provider};
use crate::reloads;

/// How often, at most, the files are checked for changes.
const FILES_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// TLS of a listener. Cheap to clone.
///
/// The files are checked when a connection arrives, at most once a second;
/// changed ones that are not valid are logged, and the previous certificate stays.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Identity,
    client_ca: Option<PathBuf>,
    alpn: Vec<Vec<u8>>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    stamp: Stamp,
    checked_at: Instant,
}

/// What changes when a file does.
pub(super) type Stamp = Vec<Option<(SystemTime, u64)>>;

impl ServerTls {
    /// Reads the files and offers `alpn`, preferred ones first.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn load(identity: Identity, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        Self::new(identity, None, alpn)
    }

    /// The same, and clients must show a certificate signed by `client_ca`.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn load_mutual(
        identity: Identity,
        client_ca: PathBuf,
        alpn: &[&[u8]],
    ) -> Result<Self, TlsError> {
        Self::new(identity, Some(client_ca), alpn)
    }

    fn new(
        identity: Identity,
        client_ca: Option<PathBuf>,
        alpn: &[&[u8]],
    ) -> Result<Self, TlsError> {
        let alpn: Vec<_> = alpn.iter().map(|name| name.to_vec()).collect();
        let stamp = stamp(&identity, client_ca.as_deref());
        let config = build(&identity, client_ca.as_deref(), &alpn)?;
        let current = Mutex::new(Current {
            config,
            stamp,
            checked_at: Instant::now(),
        });
        Ok(Self(Arc::new(Inner {
            identity,
            client_ca,
            alpn,
            current,
        })))
    }

    /// Reads the files now, changed or not; what cannot be used leaves the previous certificate in force.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn reload(&self) -> Result<(), TlsError> {
        let inner = &*self.0;
        let mut current = inner.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&inner.identity, inner.client_ca.as_deref());
        inner.replace(&mut current, stamp)
    }

    /// The files of its certificate and key.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// What new connections use.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        let inner = &*self.0;
        let mut current = inner.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.checked_at.elapsed() >= FILES_CHECK_INTERVAL {
            current.checked_at = Instant::now();
            inner.reload(&mut current);
        }
        Arc::clone(&current.config)
    }
}

impl Inner {
    fn reload(&self, current: &mut Current) {
        let client_ca = self.client_ca.as_deref();
        let stamp = stamp(&self.identity, client_ca);
        if stamp == current.stamp {
            return;
        }
        match self.replace(current, stamp) {
            Ok(()) => {
                tracing::info!(certificate = %self.identity.certificate.display(), "TLS certificate reloaded");
            }
            Err(error) => {
                tracing::error!(%error, "changed TLS files are not valid; keeping the previous certificate");
            }
        }
    }

    fn replace(&self, current: &mut Current, stamp: Stamp) -> Result<(), TlsError> {
        current.stamp = stamp;
        let built = build(&self.identity, self.client_ca.as_deref(), &self.alpn);
        if built.is_err() {
            reloads::refused(&self.identity.certificate);
        }
        current.config = built?;
        Ok(())
    }
}

pub(super) fn stamp(identity: &Identity, client_ca: Option<&Path>) -> Stamp {
    [
        Some(&*identity.certificate),
        Some(&*identity.key),
        client_ca,
    ]
    .into_iter()
    .flatten()
    .map(|path| {
        let data = std::fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.len()))
    })
    .collect()
}

fn build(
    identity: &Identity,
    client_ca: Option<&Path>,
    alpn: &[Vec<u8>],
) -> Result<Arc<ServerConfig>, TlsError> {
    let key: CertifiedKey = identity.load()?;
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            pem::add_roots(&mut roots, path)?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = alpn.to_vec();
    // Neither agentk nor kubectl resumes sessions: tickets would be waste.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}
