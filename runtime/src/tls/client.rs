//! TLS for dialling.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    sign::SingleCertAndKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Identity, PemPair, TlsError, client_certificate::ClientCertificate, pem, provider};

/// How servers are checked, and what is shown to them.
#[derive(Debug, Clone, Default)]
pub struct ClientTlsOptions {
    /// PEM files with further trusted roots, beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// The same as a text.
    pub ca_pem: Option<Arc<str>>,
    /// Trust nothing but `ca_files`.
    pub only_ca_files: bool,
    /// Accept any certificate. For tests and debugging.
    pub insecure_skip_verify: bool,
    /// The name that is asked for and checked, instead of the host's.
    pub server_name: Option<String>,
    /// A certificate to show to servers that ask for one.
    pub identity: Option<Identity>,
    /// The same as texts.
    pub identity_pem: Option<PemPair>,
}

/// TLS for dialling. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn load(options: &ClientTlsOptions) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let builder = if options.insecure_skip_verify {
            let verifier = Arc::new(AnyCertificate(provider().signature_verification_algorithms));
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        } else {
            builder.with_root_certificates(roots(options)?)
        };
        let mut config = builder.with_no_client_auth();
        if let Some(identity) = &options.identity {
            config.client_auth_cert_resolver = Arc::new(ClientCertificate::load(identity.clone())?);
        }
        if let Some(pair) = &options.identity_pem {
            let key = SingleCertAndKey::from(pair.load()?);
            config.client_auth_cert_resolver = Arc::new(key);
        }
        // Connections live for hours: keeping sessions would only cost memory.
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            server_name: options.server_name.as_deref().map(name).transpose()?,
        })
    }

    /// What a connection that offers `alpn` uses.
    #[must_use]
    pub fn config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// The name to ask `host` for.
    ///
    /// # Errors
    /// When it is neither a host name nor an IP address.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => name(host),
        }
    }
}

/// `host` as rustls wants it.
pub(crate) fn name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::ServerName(host.to_owned()))
}

fn roots(options: &ClientTlsOptions) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let mut native_errors = Vec::new();
    if !options.only_ca_files {
        let native = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(native.certs);
        native_errors = native.errors;
    }
    for path in &options.ca_files {
        pem::add_roots(&mut roots, path)?;
    }
    if let Some(pem) = &options.ca_pem {
        pem::add_roots_of(&mut roots, pem)?;
    }
    if roots.is_empty() {
        let why: Vec<_> = native_errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoRoots(why.join(", ")));
    }
    Ok(roots)
}

/// Accepts every certificate; signatures are still checked.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
