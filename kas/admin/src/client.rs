//! A client of the API, by gRPC: what the command line asks through.

use std::{path::PathBuf, time::Duration};

use http::{HeaderMap, HeaderValue, Uri, header::AUTHORIZATION};
use runtime::{
    connect::{ConnectError, ConnectOptions, Target, TargetError, connect, connect_unix},
    grpc::Channel,
    io::ByteStream,
    tls::{ClientTls, ClientTlsOptions, Identity, TlsError},
};
use tokio_util::{sync::CancellationToken, sync::DropGuard};

use crate::v1::admin_client::AdminClient;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer, at most.
const ANSWER_BYTES: usize = 4 << 20;

/// Where a server's admin API is, and how to prove who asks.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// `http://HOST:PORT`, `https://HOST:PORT`, or `unix:///PATH`.
    pub server: String,
    /// A file with a token.
    pub token_file: Option<PathBuf>,
    /// CAs besides those of the system; none for those of the system.
    pub ca_files: Vec<PathBuf>,
    /// A certificate and its key, to be shown.
    pub identity: Option<Identity>,
}

/// Why a server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Its URL is none.
    #[error(
        "`{0}` is no address of an admin API: give http://HOST:PORT, https://HOST:PORT or unix:///PATH"
    )]
    Server(String),
    /// Its URL is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The token cannot be read.
    #[error("cannot read the token file {}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The token is none.
    #[error("the token file {} holds no token", .0.display())]
    NoToken(PathBuf),
    /// A token would be shown to anybody on the way.
    #[error("a token is not sent in clear to `{0}`: use https://, or an address of this machine")]
    InClear(String),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] Box<ConnectError>),
    /// There is no connection.
    #[error("cannot connect to {0}")]
    Unix(String, #[source] std::io::Error),
    /// What answers speaks something else.
    #[error("what answers at {0} does not speak HTTP/2")]
    Http2(String, #[source] h2::Error),
}

/// A connection to a server's admin API. Ends when it is dropped.
#[derive(Debug)]
pub struct Client {
    grpc: AdminClient<Channel>,
    _connection: DropGuard,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError`], naming what is wrong.
    pub async fn connect(options: &ClientOptions) -> Result<Self, ClientError> {
        let (io, origin) = dial(options).await?;
        let metadata = metadata(options)?;
        let server = || options.server.clone();
        let handshake = runtime::grpc::client_settings().handshake(io).await;
        let (send, connection) = handshake.map_err(|error| ClientError::Http2(server(), error))?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            stopped.run_until_cancelled(connection).await;
        });
        let channel = Channel::new(send, origin, metadata);
        Ok(Self {
            grpc: AdminClient::new(channel).max_decoding_message_size(ANSWER_BYTES),
            _connection: stop.drop_guard(),
        })
    }

    /// The calls.
    pub fn grpc(&mut self) -> &mut AdminClient<Channel> {
        &mut self.grpc
    }
}

async fn dial(options: &ClientOptions) -> Result<(ByteStream, Uri), ClientError> {
    let server = &options.server;
    if let Some(path) = server.strip_prefix("unix://") {
        let io = connect_unix(std::path::Path::new(path)).await;
        let io = io.map_err(|error| ClientError::Unix(server.clone(), error))?;
        return Ok((io, Uri::from_static("http://localhost")));
    }
    let wrong = || ClientError::Server(server.clone());
    let uri: Uri = server.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?.clone();
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let scheme = if secure { "grpcs" } else { "grpc" };
    let target = Target::parse(&format!("{scheme}://{authority}"))?;
    if !secure && options.token_file.is_some() && !is_this_machine(target.host()) {
        return Err(ClientError::InClear(server.clone()));
    }
    let load = || {
        ClientTls::load(&ClientTlsOptions {
            ca_files: options.ca_files.clone(),
            identity: options.identity.clone(),
            ..ClientTlsOptions::default()
        })
    };
    let connected = connect(
        &target,
        &ConnectOptions {
            // Without TLS the machine needs no root certificates.
            tls: secure.then(load).transpose()?,
            timeout: CONNECT_TIMEOUT,
            ..ConnectOptions::default()
        },
    )
    .await
    .map_err(Box::new)?;
    let scheme = if secure { "https" } else { "http" };
    let origin = Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query("/")
        .build();
    Ok((connected.io, origin.map_err(|_| wrong())?))
}

fn is_this_machine(host: &str) -> bool {
    let ip: Option<std::net::IpAddr> = host.parse().ok();
    host == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
}

fn metadata(options: &ClientOptions) -> Result<HeaderMap, ClientError> {
    let Some(path) = &options.token_file else {
        return Ok(HeaderMap::new());
    };
    let text = std::fs::read_to_string(path).map_err(|source| ClientError::Token {
        path: path.clone(),
        source,
    })?;
    let none = || ClientError::NoToken(path.clone());
    // The server's own file may have a name before the token, and remarks.
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    let token = line
        .and_then(|line| line.split_whitespace().last())
        .ok_or_else(none)?;
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| none())?;
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}
