//! The PROXY protocol (v1 and v2): whom a load balancer speaks for.

use std::{io, net::SocketAddr};

use ppp::{PartialResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

const V1_PREFIX: &[u8] = b"PROXY ";
const V1_MAX: usize = 107;
const V2_PREFIX: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_MAX: usize = 4096;

/// A PROXY header that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProxyProtocolError {
    /// The connection failed or ended inside the header.
    #[error("the connection failed in the PROXY header: {0}")]
    Io(#[from] io::Error),
    /// The header is not one.
    #[error("malformed PROXY header: {0}")]
    Malformed(String),
}

/// Reads a PROXY header, if there is one: the client's address, if it names
/// one, and what was read after it. The caller sets the deadline.
///
/// # Errors
/// [`ProxyProtocolError`]; the connection cannot be used.
pub async fn read<S: AsyncRead + Unpin>(
    io: &mut S,
) -> Result<(Option<SocketAddr>, Vec<u8>), ProxyProtocolError> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        if io.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match parse(&bytes)? {
            Parsed::More => {}
            Parsed::Absent => return Ok((None, bytes)),
            Parsed::Header { length, client } => return Ok((client, bytes.split_off(length))),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// Not enough bytes to know.
    More,
    /// The connection begins with something else.
    Absent,
    Header {
        length: usize,
        client: Option<SocketAddr>,
    },
}

fn parse(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    for (prefix, parse) in [
        (V1_PREFIX, parse_v1 as fn(&[u8]) -> _),
        (V2_PREFIX, parse_v2),
    ] {
        let seen = prefix.len().min(bytes.len());
        if bytes[..seen] == prefix[..seen] {
            return if seen < prefix.len() {
                Ok(Parsed::More)
            } else {
                parse(bytes)
            };
        }
    }
    Ok(Parsed::Absent)
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= V1_MAX {
            Err(malformed("it does not end"))
        } else {
            Ok(Parsed::More)
        };
    };
    let length = end + 2;
    let header = v1::Header::try_from(&bytes[..length]).map_err(malformed)?;
    let client = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(tcp) => Some((tcp.source_address, tcp.source_port).into()),
        v1::Addresses::Tcp6(tcp) => Some((tcp.source_address, tcp.source_port).into()),
    };
    Ok(Parsed::Header { length, client })
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    let announced = bytes
        .get(14..16)
        .map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
    if announced.is_some_and(|length| length > V2_MAX) {
        return Err(malformed("it is longer than 4 KiB"));
    }
    let parsed = v2::Header::try_from(bytes);
    if parsed.is_incomplete() {
        return Ok(Parsed::More);
    }
    let header = parsed.map_err(malformed)?;
    let client = match (header.command, &header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => {
            Some((ip.source_address, ip.source_port).into())
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => {
            Some((ip.source_address, ip.source_port).into())
        }
        (v2::Command::Local, _)
        | (v2::Command::Proxy, v2::Addresses::Unix(_) | v2::Addresses::Unspecified) => None,
    };
    Ok(Parsed::Header {
        length: header.len(),
        client,
    })
}

fn malformed(why: impl ToString) -> ProxyProtocolError {
    ProxyProtocolError::Malformed(why.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V2: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\x1f\x90\x01\xbb";

    #[tokio::test]
    async fn the_client_is_named_and_the_rest_is_kept() {
        let v2 = [V2, b"rest"].concat();
        let cases: [(&[u8], Option<&str>); 5] = [
            (
                b"PROXY TCP4 10.0.0.1 10.0.0.2 8080 443\r\nrest",
                Some("10.0.0.1:8080"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 8080 443\r\nrest",
                Some("[2001:db8::1]:8080"),
            ),
            (b"PROXY UNKNOWN\r\nrest", None),
            (&v2, Some("10.0.0.1:8080")),
            (b"rest", None),
        ];

        for (mut bytes, client) in cases {
            let (found, rest) = read(&mut bytes).await.unwrap();

            assert_eq!(found, client.map(|client| client.parse().unwrap()));
            assert_eq!([&rest, bytes].concat(), b"rest");
        }
    }

    #[tokio::test]
    async fn a_header_may_come_in_pieces() {
        for header in [&b"PROXY TCP4 10.0.0.1 10.0.0.2 8080 443\r\n"[..], V2] {
            let pieces = header.iter().map(|byte| Ok::<_, io::Error>(vec![*byte]));
            let bytes = futures_util::stream::iter(pieces.map(|r| r.map(bytes::Bytes::from)));
            let mut reader = tokio_util::io::StreamReader::new(bytes);

            let (client, rest) = read(&mut reader).await.unwrap();

            assert_eq!(client, Some("10.0.0.1:8080".parse().unwrap()));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        let endless = [b"PROXY ", &[b'x'; 200][..]].concat();
        let long = [&V2[..14], b"\xff\xff"].concat();
        for bytes in [
            &b"PROXY TCP4 nowhere 10.0.0.2 8080 443\r\n"[..],
            b"PROXY TCP4\r\n",
            &endless,
            &long,
            b"\r\n\r\n\0\r\nQUIT\n\x01\x11\x00\x00",
        ] {
            assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(version in 0..3usize, bytes: Vec<u8>) {
            let prefix = [&b""[..], V1_PREFIX, V2_PREFIX][version];
            let _ = parse(&[prefix, &bytes].concat());
        }
    }
}
