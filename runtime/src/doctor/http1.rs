//! One question over HTTP/1.1, on a connection of its own.

use std::{
    io,
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use super::QUESTION_TIMEOUT;
use crate::{
    connect::{ConnectError, ConnectOptions, Target, connect_http1},
    websocket::handshake::{client::write_header, read_head},
};

const MAX_HEADERS: usize = 96;
/// Bytes of a body that are looked at.
const MAX_BODY_BYTES: u64 = 16 << 10;

/// What a server answered.
#[derive(Debug)]
pub struct Http1Answer {
    /// The HTTP status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The beginning of the body, as a text.
    pub body: String,
    /// From the request to the head of the answer.
    pub took: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Http1Error {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// What came is not HTTP/1.1.
    #[error("the answer is not HTTP/1.1: {0}")]
    NotHttp(#[from] httparse::Error),
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Http1Answer {
    /// A header of the answer.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The time by the server's clock.
    #[must_use]
    pub fn date(&self) -> Option<SystemTime> {
        super::http_date(self.header("date")?)
    }

    /// Whether a kas answers, or passes its name on.
    #[must_use]
    pub fn is_of_kas(&self) -> bool {
        let named = |name| {
            self.header(name)
                .is_some_and(|it| it.contains("gitlab-kas"))
        };
        named("server") || named("via") || self.body.contains("GitLab Agent Server")
    }
}

/// Asks for a path of the target, with these headers besides the usual ones.
///
/// # Errors
/// [`Http1Error`]: no connection, or no answer in time.
pub async fn get(
    target: &Target,
    options: &ConnectOptions,
    path: &str,
    headers: &HeaderMap,
) -> Result<Http1Answer, Http1Error> {
    ask(target, options, "GET", path, headers).await
}

/// The same with another method; of a body only the headers are sent.
pub(super) async fn ask(
    target: &Target,
    options: &ConnectOptions,
    method: &str,
    path: &str,
    headers: &HeaderMap,
) -> Result<Http1Answer, Http1Error> {
    let (host, agent) = (target.authority(), &options.user_agent);
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n").into_bytes();
    for (name, value) in headers {
        write_header(&mut head, name, value);
    }
    head.extend_from_slice(b"\r\n");
    let asking = async {
        let mut io = connect_http1(target, options).await?;
        let began = Instant::now();
        io.write_all(&head).await?;
        io.flush().await?;
        let (head, rest) = read_head(&mut io).await?;
        let took = began.elapsed();
        let mut known = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut known);
        answer.parse(&head)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = answer.headers.iter();
        let headers = headers.map(|it| (it.name.to_owned(), text(it.value)));
        let (status, headers) = (answer.code.unwrap_or_default(), headers.collect());
        let mut answered = Http1Answer {
            status,
            headers,
            body: String::new(),
            took,
        };
        let length = answered.header("content-length");
        let length = length.and_then(|it| it.trim().parse::<u64>().ok());
        // Who sends no length may leave the connection open.
        let wanted = length.unwrap_or_default().min(MAX_BODY_BYTES);
        let mut body = rest;
        let missing = wanted.saturating_sub(body.len() as u64);
        // A body that breaks off is not needed.
        let _ = io.take(missing).read_to_end(&mut body).await;
        answered.body = text(&body);
        Ok(answered)
    };
    match timeout(QUESTION_TIMEOUT, asking).await {
        Ok(answered) => answered,
        Err(_) => Err(Http1Error::Timeout(QUESTION_TIMEOUT)),
    }
}
