//! A plain HTTP client for kas's proxy, and sockets for requests that no client would make.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(90);

/// Sends one request on a connection of its own and reads the whole answer.
///
/// # Errors
/// When the server does not answer, or the answer breaks off.
pub async fn send(request: Request<Bytes>) -> Result<Response<Bytes>> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let what = request.uri().clone();
    let exchange = async {
        let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
        anyhow::Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    };
    let answer = tokio::time::timeout(LIMIT, exchange).await;
    answer
        .with_context(|| format!("{what} takes over {LIMIT:?}"))?
        .with_context(|| what.to_string())
}

/// Sends one request on a connection of its own and reads the head of the answer; the body is the caller's.
///
/// # Errors
/// When the server does not answer.
pub async fn open(request: Request<Bytes>) -> Result<Response<Incoming>> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let what = request.uri().clone();
    let answer = tokio::time::timeout(LIMIT, client.request(request.map(Full::new))).await;
    answer
        .with_context(|| format!("{what} takes over {LIMIT:?}"))?
        .with_context(|| what.to_string())
}

/// A GET with a bearer token.
///
/// # Errors
/// As [`send`].
pub async fn get(url: &str, bearer: &str) -> Result<Response<Bytes>> {
    let request = Request::get(url).header("authorization", format!("Bearer {bearer}"));
    send(request.body(Bytes::new())?).await
}

/// A connection to a port of loopback, for bytes that no client library would send.
#[derive(Debug)]
pub struct Socket(TcpStream);

impl Socket {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn open(port: u16) -> Result<Self> {
        Ok(Self(TcpStream::connect(("127.0.0.1", port)).await?))
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// When the peer is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.write_all(bytes).await?)
    }

    /// Reads up to and with `end`.
    ///
    /// # Errors
    /// When the peer closes before, or `limit` is over.
    pub async fn read_until(&mut self, end: &str, limit: Duration) -> Result<String> {
        let mut text = Vec::new();
        let read = async {
            while !text.ends_with(end.as_bytes()) {
                text.push(self.0.read_u8().await?);
            }
            anyhow::Ok(())
        };
        let read = tokio::time::timeout(limit, read).await;
        let text = String::from_utf8_lossy(&text).into_owned();
        let missing = || format!("no {end:?} after {text:?}");
        read.with_context(missing)?.with_context(missing)?;
        Ok(text)
    }

    /// Reads all that comes until the peer closes, resets, or `limit` is over; says whether it closed.
    pub async fn read_to_end(&mut self, limit: Duration) -> (String, bool) {
        let mut text = Vec::new();
        let read = tokio::time::timeout(limit, self.0.read_to_end(&mut text)).await;
        (String::from_utf8_lossy(&text).into_owned(), read.is_ok())
    }
}
