//! TLS for listeners and for dialling, the only place that knows rustls.

mod client;
mod client_certificate;
mod pem;
mod server;
mod subject;

use std::sync::Arc;

use rustls::{
    CipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
};

pub(crate) use client::name;
pub use client::{ClientTls, ClientTlsOptions};
pub use pem::{Identity, PemPair};
pub use server::ServerTls;
pub use subject::Subject;

/// ALPN name of HTTP/2.
pub const H2: &[u8] = b"h2";
/// ALPN name of HTTP/1.1.
pub const HTTP_1_1: &[u8] = b"http/1.1";

/// TLS that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read the {what} file {path}: {error}")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A file has not what it should.
    #[error("the {what} file {path} cannot be used: {why}")]
    Content {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate and its key do not go together, or are not usable.
    #[error("the certificate {certificate} and the key {key} cannot be used together: {error}")]
    Pair {
        /// The certificate file.
        certificate: String,
        /// The key file.
        key: String,
        /// What rustls says.
        error: rustls::Error,
    },
    /// There is nothing to check servers with.
    #[error("no trusted root certificates: {0}; install ca-certificates or name a CA file")]
    NoRoots(String),
    /// Something that rustls refuses.
    #[error("TLS configuration: {0}")]
    Rustls(#[from] rustls::Error),
    /// A client verifier that cannot be built.
    #[error("TLS client verification: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A name that is neither a host name nor an IP address.
    #[error("{0:?} is not a server name")]
    ServerName(String),
}

/// AES-128 first, as Go has it: its SHA-256 is done by the processor, which the SHA-384 of AES-256 is not, and a
/// handshake hashes more than it encrypts.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
    let suites = &mut provider.cipher_suites;
    suites.sort_by_key(|suite| suite.suite() != first);
    Arc::new(provider)
}
