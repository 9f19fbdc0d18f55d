//! The client certificate that is presented when dialling; a changed one is picked up.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};

use super::{
    Identity, TlsError,
    server::{Stamp, stamp},
};
use crate::reloads;

/// A client certificate whose files are checked when a server asks for it; changed
/// files that are not valid are logged, and the previous certificate stays.
#[derive(Debug)]
pub(super) struct ClientCertificate {
    identity: Identity,
    current: Mutex<(Arc<CertifiedKey>, Stamp)>,
}

impl ClientCertificate {
    pub(super) fn load(identity: Identity) -> Result<Self, TlsError> {
        let stamp = stamp(&identity, None);
        let key = Arc::new(identity.load()?);
        Ok(Self {
            identity,
            current: Mutex::new((key, stamp)),
        })
    }

    fn key(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.identity, None);
        if stamp != current.1 {
            match self.identity.load() {
                Ok(key) => current.0 = Arc::new(key),
                Err(error) => {
                    reloads::refused(&self.identity.certificate);
                    tracing::error!(%error, "changed TLS files are not valid; keeping the previous certificate");
                }
            }
            current.1 = stamp;
        }
        current.0.clone()
    }
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a new certificate and its key, and returns the certificate.
    fn write(identity: &Identity, name: &str) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(&identity.certificate, made.cert.pem()).unwrap();
        std::fs::write(&identity.key, made.signing_key.serialize_pem()).unwrap();
        made.cert.der().to_vec()
    }

    #[test]
    fn new_files_are_shown_and_unusable_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity {
            certificate: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
        };
        let first = write(&identity, "a");
        let shown = ClientCertificate::load(identity.clone()).unwrap();
        let now = || shown.key().cert[0].to_vec();
        assert_eq!(now(), first);

        // The name is longer, and with it the file: clocks of files are coarse.
        let second = write(&identity, "a.much.longer.name");
        assert_eq!(now(), second);

        std::fs::write(&identity.certificate, "nothing").unwrap();
        assert_eq!(now(), second);
    }
}
