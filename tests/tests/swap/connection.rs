//! A caller's connection, kept as long as it lasts.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tests::{certs::Certs, mixed_set::bearer};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs},
};

type Body = Full<Bytes>;

/// How callers of one kind connect. GitLab's kas 16.5 offers HTTP/1.1 only; ours takes what is offered.
#[derive(Clone)]
pub(crate) struct Dialer {
    port: u16,
    tls: TlsConnector,
}

/// A connection.
pub(crate) enum Connection {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

/// What became of a request.
pub(crate) enum Sent {
    /// The head of an answer.
    Answered(Response<Incoming>),
    /// Nothing of it has left.
    Unsent,
    /// The connection ended before an answer.
    Broken,
}

impl Dialer {
    pub(crate) fn new(port: u16, certs: &Certs, protocols: &[&str]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certs.ca)?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { port, tls })
    }

    pub(crate) async fn connect(&self) -> Result<Connection> {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let name = ServerName::try_from("localhost")?;
        let stream = self.tls.connect(name, socket).await.context("TLS")?;
        let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        // Both connections end with their sender.
        Ok(if two {
            let (send, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Connection::Two(send)
        } else {
            let (send, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Connection::One(send)
        })
    }
}

impl Connection {
    /// Whether another request can be sent.
    pub(crate) async fn is_usable(&mut self) -> bool {
        match self {
            Self::One(send) => send.ready().await.is_ok(),
            Self::Two(send) => send.ready().await.is_ok(),
        }
    }

    /// Sends one request as the caller of an agent.
    pub(crate) async fn send(&mut self, method: Method, agent: i64, path: &str) -> Result<Sent> {
        let origin = match self {
            Self::One(_) => "",
            Self::Two(_) => "https://localhost",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{origin}/k8s-proxy{path}"))
            .header("authorization", format!("Bearer {}", bearer(agent)))
            .body(Full::default())?;
        Ok(match self {
            Self::One(send) => {
                let host = http::HeaderValue::from_static("localhost");
                request.headers_mut().insert(http::header::HOST, host);
                sent(send.try_send_request(request).await)
            }
            Self::Two(send) => {
                *request.version_mut() = Version::HTTP_2;
                sent(send.try_send_request(request).await)
            }
        })
    }
}

fn sent(
    outcome: Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<Body>>>,
) -> Sent {
    match outcome {
        Ok(answer) => Sent::Answered(answer),
        Err(mut error) => match error.take_message() {
            Some(_) => Sent::Unsent,
            None => Sent::Broken,
        },
    }
}
