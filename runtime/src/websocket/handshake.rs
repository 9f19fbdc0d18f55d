//! The HTTP/1.1 request and answer that begin a WebSocket.

pub mod client;
pub mod server;

use std::io;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The only subprotocol spoken here.
pub const SUBPROTOCOL: &str = "ws-tunnel";

const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 96;

/// Reads to the empty line that ends an HTTP head; the head, and what came
/// after it.
pub(crate) async fn read_head<S: AsyncRead + Unpin>(io: &mut S) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let searched = bytes.len().saturating_sub(3);
        if io.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = bytes[searched..].windows(4).position(|w| w == b"\r\n\r\n");
        if let Some(end) = end {
            let rest = bytes.split_off(searched + end + 4);
            return Ok((bytes, rest));
        }
        if bytes.len() >= MAX_HEAD {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the HTTP head is longer than 16 KiB",
            ));
        }
    }
}

/// The header of this name, if it is text.
fn header<'h>(headers: &'h [httparse::Header<'_>], name: &str) -> Option<&'h str> {
    headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name))
        .and_then(|header| std::str::from_utf8(header.value).ok())
        .map(str::trim)
}

/// The items of all comma-separated headers of this name.
fn list<'h>(headers: &'h [httparse::Header<'_>], name: &'h str) -> impl Iterator<Item = &'h str> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .filter_map(|header| std::str::from_utf8(header.value).ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn lists(headers: &[httparse::Header<'_>], name: &str, item: &str) -> bool {
    list(headers, name).any(|found| found.eq_ignore_ascii_case(item))
}

/// What a server answers to this `Sec-WebSocket-Key`.
#[must_use]
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_standard_gives_its_answer() {
        assert_eq!(
            accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[tokio::test]
    async fn what_follows_a_head_is_kept() {
        let (head, rest) = read_head(&mut &b"GET / HTTP/1.1\r\n\r\n\x82"[..])
            .await
            .unwrap();

        assert_eq!(head, b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(rest, b"\x82");
    }

    #[tokio::test]
    async fn an_endless_head_is_refused() {
        let error = read_head(&mut tokio::io::repeat(b'a')).await.unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
