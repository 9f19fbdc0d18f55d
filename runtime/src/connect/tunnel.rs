//! A tunnel through an HTTP proxy (CONNECT).

use std::io;

use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use super::{ConnectOptions, dial, dial::DialError, proxy::ProxyUrl, target::Target};
use crate::{
    io::{Stream, Transport},
    tls,
    websocket::handshake::read_head,
};

const MAX_HEADERS: usize = 96;

/// No way through a proxy.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// No TCP connection to the proxy.
    #[error("the proxy cannot be reached: {0}")]
    Dial(#[from] DialError),
    /// The proxy wants TLS, which cannot be had.
    #[error("TLS with the proxy: {0}")]
    Tls(String),
    /// The connection to the proxy failed.
    #[error("the connection to the proxy failed: {0}")]
    Io(#[from] io::Error),
    /// The proxy does not speak HTTP/1.1.
    #[error("the proxy's answer is not HTTP/1.1: {0}")]
    NotHttp(#[from] httparse::Error),
    /// The proxy refuses.
    #[error("the proxy refused with HTTP {status} {reason}{}", hint(*.status))]
    Refused {
        /// The status.
        status: u16,
        /// Its text.
        reason: String,
    },
}

/// Asks `proxy` for a connection to `target`.
pub(super) async fn through(
    proxy: &ProxyUrl,
    target: &Target,
    options: &ConnectOptions,
) -> Result<Transport, TunnelError> {
    let mut io = to(proxy, options).await?;
    io.write_all(request(proxy, target, &options.user_agent).as_bytes())
        .await?;
    io.flush().await?;
    let (head, rest) = read_head(&mut io).await?;
    check(&head)?;
    io.put_back(rest);
    Ok(io)
}

/// A connection to the proxy itself.
pub(super) async fn to(
    proxy: &ProxyUrl,
    options: &ConnectOptions,
) -> Result<Transport, TunnelError> {
    let tcp = dial::tcp(&proxy.host, proxy.port, options).await?;
    let mut io = Transport::new(Stream::Tcp(tcp));
    if proxy.tls {
        io = tls_handshake(io, proxy, options).await?;
    }
    Ok(io)
}

async fn tls_handshake(
    io: Transport,
    proxy: &ProxyUrl,
    options: &ConnectOptions,
) -> Result<Transport, TunnelError> {
    let Some(client) = &options.tls else {
        return Err(TunnelError::Tls("TLS is not configured".to_owned()));
    };
    let name = tls::name(&proxy.host).map_err(|error| TunnelError::Tls(error.to_string()))?;
    TlsConnector::from(client.config(&[tls::HTTP_1_1]))
        .connect(name, io)
        .await
        .map(|stream| Transport::new(Stream::TlsClient(Box::new(stream))))
        .map_err(|error| TunnelError::Tls(error.to_string()))
}

fn request(proxy: &ProxyUrl, target: &Target, user_agent: &str) -> String {
    let to = target.host_and_port();
    let authorization = match &proxy.authorization {
        Some(value) => format!("Proxy-Authorization: {value}\r\n"),
        None => String::new(),
    };
    format!(
        "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: {user_agent}\r\n{authorization}\r\n"
    )
}

fn check(head: &[u8]) -> Result<(), TunnelError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    answer.parse(head)?;
    match answer.code.unwrap_or_default() {
        200..=299 => Ok(()),
        status => Err(TunnelError::Refused {
            status,
            reason: answer.reason.unwrap_or_default().to_owned(),
        }),
    }
}

fn hint(status: u16) -> &'static str {
    match status {
        400 | 405 | 501 => "; does it support CONNECT?",
        403 => "; its rules do not allow this host or port",
        407 => "; it wants other credentials: put user:password@ in its URL",
        502..=504 => "; it cannot reach the target",
        _ => "",
    }
}
