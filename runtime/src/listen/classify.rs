//! Which protocol a connection speaks, by its first bytes.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::first_bytes::TLS_HANDSHAKE;
use crate::replay::Replay;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A TLS handshake.
    Tls,
    /// Anything else; HTTP/1.1, if it is anything.
    Http1,
    /// Nothing: it left.
    Nothing,
}

/// Reads until the answer is clear and puts back what was read. It decides at
/// the first byte that differs, so that a short HTTP/1.1 request is not left
/// waiting for the length of HTTP/2's preface.
pub(super) async fn classify<S: AsyncRead + Unpin>(io: &mut Replay<S>) -> io::Result<Protocol> {
    let mut first = [0; PREFACE.len()];
    let mut read = 0;
    let protocol = loop {
        match io.read(&mut first[read..]).await? {
            0 if read == 0 => return Ok(Protocol::Nothing),
            0 => break Protocol::Http1,
            more => read += more,
        }
        if first[0] == TLS_HANDSHAKE {
            break Protocol::Tls;
        }
        if first[..read] != PREFACE[..read] {
            break Protocol::Http1;
        }
        if read == PREFACE.len() {
            break Protocol::Http2;
        }
    };
    io.put_back(first[..read].to_vec());
    Ok(protocol)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn the_first_bytes_decide_and_stay() {
        let preface = [PREFACE, b"x"].concat();
        let cases = [
            (&preface[..], Protocol::Http2),
            (b"GET / HTTP/1.1\r\n\r\n", Protocol::Http1),
            (b"PRI", Protocol::Http1),
            (b"\x16\x03\x01", Protocol::Tls),
            (b"", Protocol::Nothing),
        ];

        for (bytes, expected) in cases {
            let mut io = Replay::new(bytes);
            assert_eq!(classify(&mut io).await.unwrap(), expected);

            let mut again = Vec::new();
            io.read_to_end(&mut again).await.unwrap();
            assert_eq!(again, bytes);
        }
    }

    #[tokio::test]
    async fn one_differing_byte_is_enough() {
        let (mut client, server) = duplex(64);
        client.write_all(b"PUT").await.unwrap();

        let protocol = classify(&mut Replay::new(server)).await.unwrap();

        assert_eq!(protocol, Protocol::Http1);
    }
}
