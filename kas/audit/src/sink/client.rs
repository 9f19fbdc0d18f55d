//! How the server of a sink is dialled.

use std::time::Duration;

use runtime::{
    connect::{ConnectOptions, Target},
    tls::{ClientTls, ClientTlsOptions},
};

use crate::{Identity, OpenError};

/// A server, and how it is dialled.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) target: Target,
    pub(super) options: ConnectOptions,
}

impl Client {
    /// The server of a URL that stands below `key` of the configuration.
    pub(super) fn new(
        url: &str,
        tls: &ClientTlsOptions,
        (key, identity): (&str, &Identity),
        timeout: Duration,
    ) -> Result<Self, OpenError> {
        let tls = ClientTls::load(tls).map_err(|source| OpenError::Tls {
            key: key.to_owned(),
            source: Box::new(source),
        })?;
        let target = Target::parse_http(url).map_err(|source| OpenError::Url {
            key: key.to_owned(),
            source,
        })?;
        let options = ConnectOptions {
            tls: Some(tls),
            user_agent: format!("kas/{}", identity.version),
            timeout,
            ..ConnectOptions::default()
        };
        Ok(Self { target, options })
    }
}
