//! Whether a client begins with TLS, by its first byte.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{linger::close, replay::Replay};

/// What begins a TLS handshake, and neither HTTP/1.1 nor HTTP/2.
pub(super) const TLS_HANDSHAKE: u8 = 0x16;
/// The answer to plain HTTP at a port that speaks TLS.
const SPEAKS_TLS: &str = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 73\r\n\r\n\
    This port speaks TLS: use https:// (agents: wss:// or grpcs://) instead.\n";

/// What a client begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// A TLS handshake.
    Tls,
    /// HTTP, of either version.
    Http,
    /// Neither.
    Other,
    /// Nothing: it left.
    Nothing,
}

/// Waits for the first bytes and puts them back.
pub(super) async fn first<S: AsyncRead + Unpin>(io: &mut Replay<S>) -> io::Result<First> {
    let mut bytes = [0; 16];
    let read = io.read(&mut bytes).await?;
    io.put_back(bytes[..read].to_vec());
    Ok(match bytes[..read].first() {
        None => First::Nothing,
        Some(&TLS_HANDSHAKE) => First::Tls,
        Some(byte) if byte.is_ascii_alphabetic() => First::Http,
        Some(_) => First::Other,
    })
}

/// Answers plain HTTP that the port speaks TLS, and ends the connection.
pub(super) async fn answer_plain_http<S>(io: &mut S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(SPEAKS_TLS.as_bytes()).await?;
    close(io).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_byte_decides_and_stays() {
        let cases = [
            (&b"\x16\x03\x01\x02\x00"[..], First::Tls),
            (b"GET / HTTP/1.1\r\n\r\n", First::Http),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", First::Http),
            (b"\0\0\0", First::Other),
            (b"", First::Nothing),
        ];

        for (bytes, expected) in cases {
            let mut io = Replay::new(bytes);
            assert_eq!(first(&mut io).await.unwrap(), expected);

            let mut again = Vec::new();
            io.read_to_end(&mut again).await.unwrap();
            assert_eq!(again, bytes);
        }
    }

    #[test]
    fn the_answers_length_is_right() {
        let (_, body) = SPEAKS_TLS.split_once("\r\n\r\n").unwrap();

        assert!(SPEAKS_TLS.contains(&format!("Content-Length: {}\r\n", body.len())));
    }
}
