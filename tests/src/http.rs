//! A plain HTTP client for kas's proxy, and sockets for requests that no client would make.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
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

/// A GET with a bearer token.
///
/// # Errors
/// As [`send`].
pub async fn get(url: &str, bearer: &str) -> Result<Response<Bytes>> {
    let request = Request::get(url).header("authorization", format!("Bearer {bearer}"));
    send(request.body(Bytes::new())?).await
}

/// Writes bytes to a port of loopback and reads what comes until the peer closes or `limit` is over.
///
/// # Errors
/// When nobody listens.
pub async fn raw(port: u16, bytes: &[u8], limit: Duration) -> Result<Vec<u8>> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.write_all(bytes).await.ok();
    let mut answer = Vec::new();
    // A reset ends the answer as well as a close does.
    tokio::time::timeout(limit, socket.read_to_end(&mut answer))
        .await
        .ok();
    Ok(answer)
}
