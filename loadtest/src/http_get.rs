//! One GET of a URL on this machine or near it: figures and probes.

use anyhow::Context;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest answer.
const MAX_BODY_BYTES: usize = 4 << 20;

/// What an http:// URL answers with. The caller sets the deadline.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn get(url: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let url: http::Uri = url.parse()?;
    let authority = url.authority().context("a URL with a host")?;
    let socket = TcpStream::connect(authority.as_str()).await?;
    let (mut send, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let path = url.path_and_query().map_or("/", |it| it.as_str());
    let request = http::Request::get(path)
        .header(http::header::HOST, authority.as_str())
        .body(Empty::<Bytes>::new())?;
    let read = async {
        let response = send.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES);
        let body = body
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!(error))?;
        anyhow::Ok((status, body.to_bytes()))
    };
    tokio::pin!(read);
    tokio::select! {
        answer = &mut read => answer,
        // A server that closes behind its answer has said everything.
        _ = connection => read.await,
    }
}
