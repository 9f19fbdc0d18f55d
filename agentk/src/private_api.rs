//! The private API of an agent's pods: a pod that kas has not dialled reaches kas
//! through one that kas has dialled.
//!
//! Of several pods behind one URL kas dials one. The others dial it ([`PodDialer`]), and it relays their
//! bytes to kas ([`Relay`]); so each has a connection of its own to kas, like any other.

mod peers;
mod pod_dialer;
mod relay;

use runtime::{
    jwt::Secret,
    tls::{ClientTls, ClientTlsOptions},
};

pub(crate) use peers::PeerAddresses;
pub(crate) use pod_dialer::PodDialer;
pub(crate) use relay::Relay;

use crate::{
    attach_listener::AttachListenerError,
    config::{Peers, PrivateApi},
};

/// What the names of its flags begin with.
const FLAGS: &str = "private-api";
/// Issuer and audience of the pods' tokens.
const PODS_AUDIENCE: &str = "gitlab-agent";

fn secret(config: &PrivateApi) -> Result<Secret, AttachListenerError> {
    let secret = Secret::read(&config.secret);
    secret.map_err(|error| AttachListenerError::Key(FLAGS, error.into()))
}

/// TLS to other pods; `None` without certificates.
fn client_tls(config: &PrivateApi) -> Result<Option<ClientTls>, AttachListenerError> {
    if config.tls.is_none() {
        return Ok(None);
    }
    let options = ClientTlsOptions {
        ca_files: config.ca.iter().cloned().collect(),
        server_name: match &config.peers {
            Peers::Name(_) => None,
            Peers::Labels { server_name, .. } => server_name.clone(),
        },
        ..ClientTlsOptions::default()
    };
    let tls = ClientTls::load(&options);
    tls.map(Some)
        .map_err(|error| AttachListenerError::Tls(FLAGS, Box::new(error)))
}
