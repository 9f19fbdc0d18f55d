//! Requests over HTTP/1.1 as bytes, and what is answered.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::http::Socket;

const LIMIT: Duration = Duration::from_secs(60);

/// An answer to a request that was the last of its connection.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answered {
    /// Whether it is a `Status` of this code whose message has these words.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn says(&self, code: u16, words: &str) -> Result<()> {
        ensure!(self.code == code, "{code} expected: {self:?}");
        let status: serde_json::Value =
            serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))?;
        let message = status["message"].as_str().unwrap_or_default();
        ensure!(status["kind"] == "Status", "{self:?}");
        ensure!(message.contains(words), "{words:?} expected: {self:?}");
        Ok(())
    }

    /// The values of a header.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(move |(of, _)| of.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// Sends a request of this first line, these lines and this body, behind which the connection ends.
///
/// # Errors
/// When there is no answer.
pub(crate) async fn send(port: u16, first: &str, lines: &str, body: &[u8]) -> Result<Answered> {
    let head = format!("{first}\r\nhost: kas\r\nconnection: close\r\n{lines}\r\n");
    let mut socket = Socket::open(port).await?;
    // It may be refused before all of it is taken.
    socket.write(&[head.as_bytes(), body].concat()).await.ok();
    let (text, closed) = socket.read_to_end(LIMIT).await;
    ensure!(closed, "the connection stays open behind {text:?}");
    let (head, body) = text
        .split_once("\r\n\r\n")
        .with_context(|| format!("{text:?}"))?;
    let code = head.split(' ').nth(1).context("a status line")?.parse()?;
    Ok(Answered {
        code,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// The line that shows a bearer token.
pub(crate) fn authorization(bearer: &str) -> String {
    format!("authorization: Bearer {bearer}\r\n")
}
