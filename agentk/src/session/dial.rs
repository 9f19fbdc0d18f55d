//! Makes one connection: byte stream, HTTP/2, and the headers of its calls.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use runtime::{
    connect::{ConnectError, ConnectOptions, Target, connect},
    tls::{ClientTls, TlsError},
};

use super::{
    Connection,
    source::{self, Driver},
};
use crate::{config::Config, version};

/// How often a WebSocket ping is sent: load balancers cut connections that are
/// silent for a minute, and do not see the pings inside.
const WEBSOCKET_PING_INTERVAL: Duration = Duration::from_secs(30);

/// Knows how to connect to kas.
#[derive(Debug)]
pub(crate) struct Dialer {
    target: Target,
    options: ConnectOptions,
    origin: Uri,
    metadata: HeaderMap,
}

impl Dialer {
    /// Reads the certificates.
    pub(crate) fn new(target: Target, config: &Config) -> Result<Self, TlsError> {
        let tls = match ClientTls::load(&config.kas_tls) {
            Ok(tls) => Some(tls),
            Err(error) if target.scheme().is_tls() => return Err(error),
            Err(_) => None,
        };
        let (upgrade_headers, metadata) = headers(&target, config);
        Ok(Self {
            origin: target.origin(),
            options: ConnectOptions {
                tls,
                headers: upgrade_headers,
                user_agent: version::user_agent(),
                proxy: config.kas_proxy.clone(),
                ping_interval: Some(WEBSOCKET_PING_INTERVAL),
                ..ConnectOptions::default()
            },
            target,
            metadata,
        })
    }

    /// Where kas is.
    pub(crate) fn address(&self) -> &Target {
        &self.target
    }

    /// Connects, to one of the addresses to `avoid` only if no other answers.
    /// The future that comes with the connection does its work, and ends when
    /// the connection has.
    pub(crate) async fn dial(
        &self,
        authorization: HeaderValue,
        avoid: Vec<SocketAddr>,
    ) -> Result<(Connection, Driver), ConnectError> {
        let options = ConnectOptions {
            avoid,
            ..self.options.clone()
        };
        let connected = connect(&self.target, &options).await?;
        let (origin, metadata) = (self.origin.clone(), self.metadata.clone());
        source::handshake(
            connected.io,
            origin,
            metadata,
            authorization,
            connected.remote_addr,
        )
        .await
        .map_err(|error| self.failed(error))
    }

    fn failed(&self, error: h2::Error) -> ConnectError {
        ConnectError::Dial {
            target: self.target.to_string(),
            error: runtime::connect::DialError::Resolve {
                host: self.target.host().to_owned(),
                error: std::io::Error::other(error),
            },
        }
    }
}

/// Headers of the WebSocket upgrade, and of each call.
pub(crate) fn headers(target: &Target, config: &Config) -> (HeaderMap, HeaderMap) {
    let (upgrade, mut metadata) = match target.scheme().is_websocket() {
        true => (config.kas_headers.clone(), HeaderMap::new()),
        false => (HeaderMap::new(), joined(&config.kas_headers)),
    };
    metadata.extend(source::metadata());
    (upgrade, metadata)
}

/// Several values of one name become one, as grpc-go sends them.
fn joined(headers: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    for name in headers.keys() {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let value = HeaderValue::from_bytes(&values.join(&b","[..]));
        let name: HeaderName = name.clone();
        out.insert(name, value.expect("made of header values"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_values_of_a_name_are_joined() {
        let mut headers = HeaderMap::new();
        headers
            .try_append("x-a", HeaderValue::from_static("1"))
            .unwrap();
        headers
            .try_append("x-a", HeaderValue::from_static("2"))
            .unwrap();

        assert_eq!(joined(&headers)["x-a"], "1,2");
    }
}
