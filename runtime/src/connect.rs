//! Dialling a kas: by any scheme, through an HTTP proxy if there is one.

mod dial;
mod exchange;
mod http;
mod no_proxy;
mod proxy;
mod target;
mod tunnel;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use ::http::HeaderMap;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

pub use dial::DialError;
pub use exchange::{ExchangeError, exchange, status_of};
pub use http::{connect_http, connect_tls};
pub use proxy::{EnvironmentProxy, ProxySetting, ProxyUrl, ProxyUrlError};
pub use target::{Target, TargetError};
pub use tunnel::TunnelError;

pub use crate::io::Scheme;
use crate::{
    io::{ByteStream, Io, Stream, Transport},
    tls::{self, ClientTls, TlsError},
    websocket::{
        Role, WebSocket,
        handshake::client::{self, HandshakeError, Request},
    },
};

/// How to dial.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Needed for `grpcs`, `wss` and proxies with `https`.
    pub tls: Option<ClientTls>,
    /// Headers of the WebSocket upgrade request; not sent otherwise.
    pub headers: HeaderMap,
    /// `User-Agent` of the WebSocket upgrade request and of proxy requests.
    pub user_agent: String,
    /// Whether to go through an HTTP proxy.
    pub proxy: ProxySetting,
    /// Deadline from the name lookup to the end of all handshakes.
    pub timeout: Duration,
    /// The local address to dial from.
    pub local_address: Option<IpAddr>,
    /// Addresses that are tried after all others of the name.
    pub avoid: Vec<SocketAddr>,
    /// How often a WebSocket ping is sent, if at all.
    pub ping_interval: Option<Duration>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            tls: None,
            headers: HeaderMap::new(),
            user_agent: "kas".to_owned(),
            proxy: ProxySetting::None,
            timeout: Duration::from_secs(20),
            local_address: None,
            avoid: Vec::new(),
            ping_interval: None,
        }
    }
}

/// A connection that is about to speak HTTP/2 with prior knowledge.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub io: ByteStream,
    /// How it was made.
    pub scheme: Scheme,
    /// Which address of the target's name it leads to; none through a proxy.
    pub remote_addr: Option<SocketAddr>,
}

/// A connection that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It took too long.
    #[error("cannot connect to {target}: no success within {limit:?}")]
    Timeout {
        /// Where to.
        target: String,
        /// The deadline.
        limit: Duration,
    },
    /// No TCP connection to the target.
    #[error("cannot connect to {target}: {error}")]
    Dial {
        /// Where to.
        target: String,
        /// Why.
        error: DialError,
    },
    /// No way through the proxy.
    #[error("cannot connect to {target} through the HTTP proxy {proxy}: {error}")]
    Proxy {
        /// Where to.
        target: String,
        /// The proxy, without credentials.
        proxy: String,
        /// Why.
        error: TunnelError,
    },
    /// TLS was not set up.
    #[error("cannot connect to {target}: it needs TLS, which is not configured")]
    NoTls {
        /// Where to.
        target: String,
    },
    /// A name that TLS cannot ask for.
    #[error("cannot connect to {target}: {error}")]
    ServerName {
        /// Where to.
        target: String,
        /// Why.
        error: TlsError,
    },
    /// The TLS handshake failed.
    #[error(
        "cannot connect to {target}: TLS handshake: {error}{}",
        tls_hint(error)
    )]
    Tls {
        /// Where to.
        target: String,
        /// Why.
        error: std::io::Error,
    },
    /// The WebSocket handshake failed.
    #[error("cannot connect to {target}: {error}")]
    WebSocket {
        /// Where to.
        target: String,
        /// Why.
        error: HandshakeError,
    },
}

impl ConnectError {
    /// Whether the target's machine is there and nobody listens.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Dial { error, .. } if error.is_refusal())
    }
}

/// Dials, within the deadline, every address that the target's name has.
///
/// # Errors
/// [`ConnectError`], which names the target. Cancelling closes what was open.
pub async fn connect(target: &Target, options: &ConnectOptions) -> Result<Connected, ConnectError> {
    // Boxed: the future of all handshakes is much larger than what is left.
    in_time(target, options, Box::pin(handshakes(target, options))).await
}

/// What dialling gives, if it comes within the deadline.
async fn in_time<T>(
    target: &Target,
    options: &ConnectOptions,
    dialling: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    match tokio::time::timeout(options.timeout, dialling).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout {
            target: target.to_string(),
            limit: options.timeout,
        }),
    }
}

/// Dials a Unix socket, in clear.
///
/// # Errors
/// When nobody listens there.
pub async fn connect_unix(path: &Path) -> io::Result<ByteStream> {
    let socket = UnixStream::connect(path).await?;
    Ok(ByteStream::plain(Transport::new(Stream::Other(Box::new(
        Io(socket),
    )))))
}

async fn handshakes(target: &Target, options: &ConnectOptions) -> Result<Connected, ConnectError> {
    let (mut io, remote_addr) = transport(target, options).await?;
    let scheme = target.scheme();
    if scheme.is_tls() {
        io = tls_handshake(io, target, options).await?;
    }
    let io = if scheme.is_websocket() {
        ByteStream::websocket(websocket_handshake(io, target, options).await?)
    } else {
        ByteStream::plain(io)
    };
    Ok(Connected {
        io,
        scheme,
        remote_addr,
    })
}

/// A connection on which HTTP/1.1 is to be spoken, whatever the target's scheme is.
///
/// # Errors
/// [`ConnectError`], which names the target. The caller has a deadline.
pub(crate) async fn connect_http1(
    target: &Target,
    options: &ConnectOptions,
) -> Result<Transport, ConnectError> {
    let (io, _) = transport(target, options).await?;
    match target.scheme().is_tls() {
        true => tls_with(io, target, options, &[tls::HTTP_1_1]).await,
        false => Ok(io),
    }
}

/// TCP to the target, or a tunnel through the proxy.
pub(crate) async fn transport(
    target: &Target,
    options: &ConnectOptions,
) -> Result<(Transport, Option<SocketAddr>), ConnectError> {
    match options.proxy.proxy_for(target) {
        None => dial::tcp(target.host(), target.port(), options)
            .await
            .map(|tcp| {
                let remote_addr = tcp.peer_addr().ok();
                (Transport::new(Stream::Tcp(tcp)), remote_addr)
            })
            .map_err(|error| ConnectError::Dial {
                target: target.to_string(),
                error,
            }),
        Some(proxy) => tunnel::through(proxy, target, options)
            .await
            .map(|io| (io, None))
            .map_err(|error| ConnectError::Proxy {
                target: target.to_string(),
                proxy: proxy.to_string(),
                error,
            }),
    }
}

async fn tls_handshake(
    io: Transport,
    target: &Target,
    options: &ConnectOptions,
) -> Result<Transport, ConnectError> {
    let alpn = match target.scheme() {
        Scheme::Grpc | Scheme::Grpcs => tls::H2,
        Scheme::Ws | Scheme::Wss | Scheme::Http | Scheme::Https => tls::HTTP_1_1,
    };
    tls_with(io, target, options, &[alpn]).await
}

async fn tls_with(
    io: Transport,
    target: &Target,
    options: &ConnectOptions,
    alpn: &[&[u8]],
) -> Result<Transport, ConnectError> {
    let Some(tls) = &options.tls else {
        return Err(ConnectError::NoTls {
            target: target.to_string(),
        });
    };
    let name = tls
        .server_name(target.host())
        .map_err(|error| ConnectError::ServerName {
            target: target.to_string(),
            error,
        })?;
    TlsConnector::from(tls.config(alpn))
        .connect(name, io)
        .await
        .map(|stream| Transport::new(Stream::TlsClient(Box::new(stream))))
        .map_err(|error| ConnectError::Tls {
            target: target.to_string(),
            error,
        })
}

async fn websocket_handshake(
    mut io: Transport,
    target: &Target,
    options: &ConnectOptions,
) -> Result<WebSocket<Transport>, ConnectError> {
    let request = Request {
        host: &target.authority(),
        path: target.path_and_query(),
        user_agent: &options.user_agent,
        headers: &options.headers,
    };
    let rest =
        client::connect(&mut io, &request)
            .await
            .map_err(|error| ConnectError::WebSocket {
                target: target.to_string(),
                error,
            })?;
    io.put_back(rest);
    Ok(WebSocket::new(io, Role::Client, options.ping_interval))
}

/// What an operator should look at.
fn tls_hint(error: &std::io::Error) -> &'static str {
    use rustls::{CertificateError, Error};
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => {
            "; the server's certificate is not signed by a trusted CA: name its CA certificate file, if it is your own"
        }
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "; the server's certificate is for another name",
        Some(Error::InvalidMessage(_)) => "; the port does not speak TLS, or a proxy interferes",
        Some(Error::NoApplicationProtocol) => {
            "; the server or a load balancer in front does not offer the needed protocol"
        }
        Some(_) => "",
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "; the server closed the connection: does the port speak TLS?"
        }
        None => "",
    }
}
