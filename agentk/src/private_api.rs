//! The private API of an agent's pods: a pod that kas has not dialled reaches kas
//! through one that kas has dialled.
//!
//! Of several pods behind one URL kas dials one. The others look for it
//! ([`Seeker`]), and it passes their bytes on ([`Relay`]); each has a connection
//! of its own to kas, which is as any other.

mod relay;
mod seeker;

use runtime::{
    jwt::Secret,
    tls::{ClientTls, ClientTlsOptions},
};

pub(crate) use relay::Relay;
pub(crate) use seeker::Seeker;

use crate::{config::PrivateApi, entrance::EntranceError};

/// What the names of its flags begin with.
const FLAGS: &str = "private-api";
/// Who signs the pods' tokens, and for whom.
const PODS: &str = "gitlab-agent";

fn secret(config: &PrivateApi) -> Result<Secret, EntranceError> {
    let secret = Secret::read(&config.secret);
    secret.map_err(|error| EntranceError::Key(FLAGS, error.to_string()))
}

/// How other pods are dialled, if they show certificates.
fn client_tls(config: &PrivateApi) -> Result<Option<ClientTls>, EntranceError> {
    if config.tls.is_none() {
        return Ok(None);
    }
    let options = ClientTlsOptions {
        ca_files: config.ca.iter().cloned().collect(),
        ..ClientTlsOptions::default()
    };
    let tls = ClientTls::load(&options);
    tls.map(Some)
        .map_err(|error| EntranceError::Tls(FLAGS, Box::new(error)))
}
