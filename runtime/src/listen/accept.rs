//! From an accepted socket to a byte stream, within a deadline.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{
    classify::{Protocol, classify},
    first_bytes::{self, First},
    local::AnySocket,
    socket::{Handshake, RemoteAddr, Socket},
};
use crate::{
    io::{ByteStream, Io, Scheme, Stream, Transport},
    proxy_protocol::{self, ProxyProtocolError},
    tls::ServerTls,
    websocket::{
        Role, WebSocket,
        handshake::server::{self, HandshakeError},
    },
};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that did not come to be.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The client left before it sent anything, as health checks do.
    #[error("the client closed the connection before it sent anything")]
    ClientLeft,
    /// The client was too slow.
    #[error("the handshake took longer than {0:?}")]
    Timeout(Duration),
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(io::Error),
    /// The PROXY header cannot be used.
    #[error(transparent)]
    ProxyProtocol(ProxyProtocolError),
    /// Plain HTTP on a port with TLS; the client got an answer that says so.
    #[error(
        "the client speaks plain HTTP, and this port speaks TLS: it must use https, wss or grpcs"
    )]
    PlainHttp,
    /// TLS on a port without.
    #[error(
        "the client speaks TLS, and this port does not: it must use http, ws or grpc, or the port needs a certificate"
    )]
    UnexpectedTls,
    /// The TLS handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    /// The WebSocket handshake failed.
    #[error(transparent)]
    WebSocket(HandshakeError),
}

impl AcceptError {
    /// Whether health checks cause this every few seconds, so that it is not worth a line at level INFO.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        matches!(self, Self::ClientLeft)
    }
}

/// How agents' connections are accepted.
#[derive(Debug, Clone)]
pub struct AgentAcceptorOptions {
    /// TLS, with ALPN `h2` and `http/1.1`; or in clear.
    pub tls: Option<ServerTls>,
    /// Whether WebSocket is accepted beside gRPC.
    pub websocket: bool,
    /// Whether connections may begin with a PROXY header. Anyone who can
    /// connect can then claim any address.
    pub proxy_protocol: bool,
    /// Deadline of everything before HTTP/2.
    pub handshake_timeout: Duration,
    /// How often a WebSocket ping is sent, if at all.
    pub ping_interval: Option<Duration>,
    /// The `Server` header of HTTP answers.
    pub server: String,
    /// Sent to clients that are no agents: where they should connect instead.
    pub directions: String,
}

impl Default for AgentAcceptorOptions {
    fn default() -> Self {
        Self {
            tls: None,
            websocket: true,
            proxy_protocol: false,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            ping_interval: None,
            server: "kas".to_owned(),
            directions: "Agents connect here, by gRPC or WebSocket.".to_owned(),
        }
    }
}

/// Makes HTTP/2 byte streams of agents' connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentAcceptor(Arc<AgentAcceptorOptions>);

/// An agent's connection, about to speak HTTP/2 with prior knowledge.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub io: ByteStream,
    /// The agent's address; what a PROXY header says, if there was one.
    pub remote_addr: SocketAddr,
    /// How it came.
    pub scheme: Scheme,
}

impl AgentAcceptor {
    /// An acceptor with these options.
    #[must_use]
    pub fn new(options: AgentAcceptorOptions) -> Self {
        Self(Arc::new(options))
    }

    /// Its TLS; `None` in clear.
    #[must_use]
    pub fn tls(&self) -> Option<&ServerTls> {
        self.0.tls.as_ref()
    }

    /// Does the handshakes, each kind that the connection asks for.
    ///
    /// # Errors
    /// [`AcceptError`]; the connection is gone. Cancelling closes it too.
    pub async fn accept(
        &self,
        socket: TcpStream,
        remote_addr: SocketAddr,
    ) -> Result<Accepted, AcceptError> {
        let limit = self.0.handshake_timeout;
        // Boxed: the future of all handshakes is much larger than what is
        // left of it in the task that goes on with the connection.
        let handshakes = Box::pin(self.handshakes(AnySocket::Tcp(socket, remote_addr)));
        within(limit, handshakes).await
    }

    async fn handshakes(&self, socket: AnySocket) -> Result<Accepted, AcceptError> {
        let options = &*self.0;
        let (mut io, remote_addr) = begin(socket, options.proxy_protocol).await?;
        if let Some(tls) = &options.tls {
            io = tls_handshake(io, tls).await?.0;
        }
        let protocol = classify(&mut io).await.map_err(failed)?;
        let secure = options.tls.is_some();
        let accepted = |io, websocket| Accepted {
            io,
            remote_addr,
            scheme: Scheme::new(websocket, secure),
        };
        match protocol {
            Protocol::Nothing => Err(AcceptError::ClientLeft),
            Protocol::Tls => Err(AcceptError::UnexpectedTls),
            Protocol::Http2 => Ok(accepted(ByteStream::plain(io), false)),
            Protocol::Http1 if !options.websocket => {
                let refused =
                    server::refuse_websocket(&mut io, &options.server, &options.directions);
                Err(AcceptError::WebSocket(refused.await))
            }
            Protocol::Http1 => {
                let socket = self.websocket_handshake(io).await?;
                Ok(accepted(ByteStream::agent_websocket(socket), true))
            }
        }
    }

    async fn websocket_handshake(
        &self,
        mut io: Transport,
    ) -> Result<WebSocket<Transport>, AcceptError> {
        let rest = server::accept(&mut io, &self.0.server, &self.0.directions)
            .await
            .map_err(AcceptError::WebSocket)?;
        io.put_back(rest);
        Ok(WebSocket::new(io, Role::Server, self.0.ping_interval))
    }
}

/// Accepts connections of listeners that serve no agents: TLS or not.
#[derive(Debug, Clone)]
pub struct PlainAcceptor {
    /// TLS, or in clear.
    pub tls: Option<ServerTls>,
    /// Whether connections may begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Deadline of the handshakes.
    pub handshake_timeout: Duration,
}

/// A connection of a [`PlainAcceptor`].
#[derive(Debug)]
pub struct PlainAccepted {
    /// The connection.
    pub io: ByteStream,
    /// The client's address.
    pub remote_addr: SocketAddr,
    /// What ALPN chose.
    pub alpn: Option<Vec<u8>>,
}

impl Handshake<(TcpStream, SocketAddr)> for AgentAcceptor {
    type Connection = Accepted;

    async fn handshake(
        &self,
        (socket, remote_addr): (TcpStream, SocketAddr),
    ) -> Result<Accepted, AcceptError> {
        self.accept(socket, remote_addr).await
    }
}

impl Handshake<AnySocket> for AgentAcceptor {
    type Connection = Accepted;

    async fn handshake(&self, socket: AnySocket) -> Result<Accepted, AcceptError> {
        within(self.0.handshake_timeout, Box::pin(self.handshakes(socket))).await
    }
}

impl Handshake<(TcpStream, SocketAddr)> for PlainAcceptor {
    type Connection = PlainAccepted;

    async fn handshake(
        &self,
        (socket, remote_addr): (TcpStream, SocketAddr),
    ) -> Result<PlainAccepted, AcceptError> {
        self.accept(socket, remote_addr).await
    }
}

impl Handshake<AnySocket> for PlainAcceptor {
    type Connection = (ByteStream, RemoteAddr);

    async fn handshake(&self, socket: AnySocket) -> Result<(ByteStream, RemoteAddr), AcceptError> {
        if let AnySocket::Tcp(socket, remote_addr) = socket {
            let accepted = self.accept(socket, remote_addr).await?;
            return Ok((accepted.io, RemoteAddr::Tcp(accepted.remote_addr)));
        }
        Ok((self.accept_any(socket).await?, RemoteAddr::Unix))
    }
}

impl PlainAcceptor {
    /// TLS or not, no PROXY header, ten seconds for handshakes.
    #[must_use]
    pub fn new(tls: Option<ServerTls>) -> Self {
        Self {
            tls,
            proxy_protocol: false,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// Does the handshakes.
    ///
    /// # Errors
    /// [`AcceptError`]; the connection is gone. Cancelling closes it too.
    pub async fn accept(
        &self,
        socket: TcpStream,
        remote_addr: SocketAddr,
    ) -> Result<PlainAccepted, AcceptError> {
        within(
            self.handshake_timeout,
            Box::pin(self.handshakes(socket, remote_addr)),
        )
        .await
    }

    /// Does the handshakes on a connection that may come by a Unix socket.
    ///
    /// # Errors
    /// [`AcceptError`]; the connection is gone. Cancelling closes it too.
    pub async fn accept_any(&self, socket: AnySocket) -> Result<ByteStream, AcceptError> {
        match socket {
            AnySocket::Tcp(socket, remote_addr) => Ok(self.accept(socket, remote_addr).await?.io),
            AnySocket::Unix(socket) => {
                let io = Transport::new(Stream::Other(Box::new(Io(socket))));
                let secured = within(self.handshake_timeout, Box::pin(self.secure(io))).await?;
                Ok(ByteStream::plain(secured.0))
            }
        }
    }

    async fn handshakes(
        &self,
        socket: TcpStream,
        remote_addr: SocketAddr,
    ) -> Result<PlainAccepted, AcceptError> {
        let socket = AnySocket::Tcp(socket, remote_addr);
        let (io, remote_addr) = begin(socket, self.proxy_protocol).await?;
        let (io, alpn) = self.secure(io).await?;
        Ok(PlainAccepted {
            io: ByteStream::plain(io),
            remote_addr,
            alpn,
        })
    }

    async fn secure(&self, mut io: Transport) -> Result<(Transport, Option<Vec<u8>>), AcceptError> {
        match &self.tls {
            Some(tls) => tls_handshake(io, tls).await,
            // Clients speak first in all protocols here.
            None => match first_bytes::first(&mut io).await.map_err(failed)? {
                First::Nothing => Err(AcceptError::ClientLeft),
                First::Tls => Err(AcceptError::UnexpectedTls),
                First::Http | First::Other => Ok((io, None)),
            },
        }
    }
}

async fn within<T>(
    limit: Duration,
    handshakes: impl Future<Output = Result<T, AcceptError>>,
) -> Result<T, AcceptError> {
    tokio::time::timeout(limit, handshakes)
        .await
        .unwrap_or(Err(AcceptError::Timeout(limit)))
}

async fn begin(
    socket: AnySocket,
    proxy_protocol: bool,
) -> Result<(Transport, SocketAddr), AcceptError> {
    let remote_addr = socket.remote_addr().socket_addr();
    let mut io = Transport::new(match socket {
        AnySocket::Tcp(socket, _) => {
            socket.set_nodelay(true).map_err(failed)?;
            Stream::Tcp(socket)
        }
        AnySocket::Unix(socket) => Stream::Other(Box::new(Io(socket))),
    });
    if !proxy_protocol {
        return Ok((io, remote_addr));
    }
    let (client, rest) = proxy_protocol::read(&mut io)
        .await
        .map_err(|error| match error {
            ProxyProtocolError::Io(error) => failed(error),
            ProxyProtocolError::Malformed(_) => AcceptError::ProxyProtocol(error),
        })?;
    io.put_back(rest);
    Ok((io, client.unwrap_or(remote_addr)))
}

async fn tls_handshake(
    mut io: Transport,
    tls: &ServerTls,
) -> Result<(Transport, Option<Vec<u8>>), AcceptError> {
    match first_bytes::first(&mut io).await.map_err(failed)? {
        First::Nothing => return Err(AcceptError::ClientLeft),
        First::Http => {
            // A client that is gone needs no answer.
            let _ = first_bytes::answer_plain_http(&mut io).await;
            return Err(AcceptError::PlainHttp);
        }
        First::Tls | First::Other => {}
    }
    let stream = TlsAcceptor::from(tls.config())
        .accept(io)
        .await
        .map_err(|error| match failed(error) {
            AcceptError::Io(error) => AcceptError::Tls(error),
            other => other,
        })?;
    let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let io = Transport::new(Stream::TlsServer(Box::new(stream)));
    Ok((io, alpn))
}

fn failed(error: io::Error) -> AcceptError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected => AcceptError::ClientLeft,
        _ => AcceptError::Io(error),
    }
}
