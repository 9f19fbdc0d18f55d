//! The server's half: any path, the subprotocol `ws-tunnel`, clear refusals.

use std::{fmt::Write, io};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{
    super::{Role, frame, outbound::Outbound},
    MAX_HEADERS, SUBPROTOCOL, accept_key, header, list, lists, read_head,
};
use crate::linger;

/// A WebSocket handshake that a server did not finish.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed or ended.
    #[error("the connection failed during the WebSocket handshake: {0}")]
    Io(#[from] io::Error),
    /// What arrived is not HTTP/1.1.
    #[error("the client speaks neither HTTP/2 nor HTTP/1.1: {0}")]
    NotHttp(#[from] httparse::Error),
    /// The request was answered with an error.
    #[error("refused an HTTP request with {status}: {reason}")]
    Refused {
        /// The HTTP status of the answer.
        status: u16,
        /// Why.
        reason: &'static str,
    },
    /// The client did not offer our subprotocol; the answer says so.
    #[error("the WebSocket client offers the subprotocol {0:?} instead of \"ws-tunnel\"")]
    Subprotocol(String),
}

struct Refusal {
    status: &'static str,
    headers: &'static str,
    reason: &'static str,
}

impl Refusal {
    fn error(&self) -> HandshakeError {
        HandshakeError::Refused {
            status: self.status[..3].parse().expect("it starts with a status"),
            reason: self.reason,
        }
    }
}

/// What a valid request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Upgrade {
    accept: String,
    offered: Vec<String>,
}

/// Reads a WebSocket request and answers it; returns what the client sent
/// after it. A request for no WebSocket is answered with `directions`. The caller sets the
/// deadline.
///
/// # Errors
/// [`HandshakeError`]; the client was told, where it can be.
pub async fn accept<S>(
    io: &mut S,
    server: &str,
    directions: &str,
) -> Result<Vec<u8>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (head, rest) = read_head(io).await?;
    match check(&head) {
        Err(error) => {
            let bad = Refusal {
                status: "400 Bad Request",
                headers: "",
                reason: "not an HTTP/1.1 request",
            };
            refuse(io, server, &bad, directions).await?;
            Err(error.into())
        }
        Ok(Err(refusal)) => {
            refuse(io, server, &refusal, directions).await?;
            Err(refusal.error())
        }
        Ok(Ok(upgrade)) if upgrade.offered.iter().any(|p| p == SUBPROTOCOL) => {
            io.write_all(switching(server, &upgrade, true).as_bytes())
                .await?;
            io.flush().await?;
            Ok(rest)
        }
        Ok(Ok(upgrade)) => Err(close_wrong_subprotocol(io, server, &upgrade).await?),
    }
}

/// Answers a request of HTTP/1.1 where WebSocket is not accepted.
pub(crate) async fn refuse_websocket<S>(
    io: &mut S,
    server: &str,
    directions: &str,
) -> HandshakeError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let refusal = Refusal {
        status: "400 Bad Request",
        headers: "",
        reason: "this port is for agents: gRPC, without WebSocket",
    };
    let answered = match read_head(io).await {
        Ok(_) => refuse(io, server, &refusal, directions).await,
        Err(error) => Err(error),
    };
    answered.map_or_else(HandshakeError::Io, |()| refusal.error())
}

fn check(head: &[u8]) -> Result<Result<Upgrade, Refusal>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head)?;
    Ok(upgrade(
        request.method.unwrap_or_default(),
        request.version.unwrap_or_default(),
        request.headers,
    ))
}

fn upgrade(
    method: &str,
    version: u8,
    headers: &[httparse::Header<'_>],
) -> Result<Upgrade, Refusal> {
    let upgrades =
        lists(headers, "connection", "upgrade") && lists(headers, "upgrade", "websocket");
    if version < 1 || !upgrades {
        return Err(Refusal {
            status: "426 Upgrade Required",
            headers: "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            reason: "this port is for agents: gRPC or WebSocket",
        });
    }
    if method != "GET" {
        return Err(Refusal {
            status: "405 Method Not Allowed",
            headers: "Allow: GET\r\n",
            reason: "a WebSocket request must be a GET",
        });
    }
    if header(headers, "sec-websocket-version") != Some("13") {
        return Err(Refusal {
            status: "400 Bad Request",
            headers: "Sec-WebSocket-Version: 13\r\n",
            reason: "unsupported WebSocket version",
        });
    }
    let key = header(headers, "sec-websocket-key").filter(|key| !key.is_empty());
    let key = key.ok_or(Refusal {
        status: "400 Bad Request",
        headers: "",
        reason: "no Sec-WebSocket-Key",
    })?;
    if !same_origin(headers) {
        return Err(Refusal {
            status: "403 Forbidden",
            headers: "",
            reason: "the request's Origin is another host",
        });
    }
    Ok(Upgrade {
        accept: accept_key(key),
        offered: list(headers, "sec-websocket-protocol")
            .map(str::to_owned)
            .collect(),
    })
}

/// Browsers send `Origin`; pages of other hosts must not use their visitors.
fn same_origin(headers: &[httparse::Header<'_>]) -> bool {
    let Some(origin) = header(headers, "origin") else {
        return !headers
            .iter()
            .any(|header| header.name.eq_ignore_ascii_case("origin"));
    };
    let host = origin
        .parse::<http::Uri>()
        .ok()
        .and_then(|origin| origin.authority().map(ToString::to_string));
    match (host, header(headers, "host")) {
        (Some(origin), Some(host)) => origin.eq_ignore_ascii_case(host),
        (None, _) | (_, None) => false,
    }
}

fn switching(server: &str, upgrade: &Upgrade, subprotocol: bool) -> String {
    let accept = &upgrade.accept;
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nServer: {server}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n"
    );
    if subprotocol {
        let _ = write!(answer, "Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n");
    }
    answer.push_str("\r\n");
    answer
}

async fn refuse<S>(io: &mut S, server: &str, refusal: &Refusal, directions: &str) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Refusal {
        status,
        headers,
        reason,
    } = refusal;
    let connection = if headers.starts_with("Connection:") {
        ""
    } else {
        "Connection: close\r\n"
    };
    let length = reason.len() + directions.len() + 2;
    // By it `agentk doctor` compares the clocks.
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let answer = format!(
        "HTTP/1.1 {status}\r\nServer: {server}\r\nDate: {date}\r\n{headers}{connection}\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{reason}\n{directions}\n"
    );
    io.write_all(answer.as_bytes()).await?;
    linger::close(io).await
}

/// As GitLab's kas does it: the handshake succeeds, then the WebSocket closes.
async fn close_wrong_subprotocol<S>(
    io: &mut S,
    server: &str,
    upgrade: &Upgrade,
) -> io::Result<HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let offered = upgrade.offered.join(",");
    let mut close = Outbound::new(Role::Server);
    close.close(
        frame::PROTOCOL_ERROR,
        &format!("Expecting \"{SUBPROTOCOL}\" subprotocol, got \"\""),
    );
    io.write_all(switching(server, upgrade, false).as_bytes())
        .await?;
    std::future::poll_fn(|cx| close.poll_queue(io, cx)).await?;
    linger::close(io).await?;
    Ok(HandshakeError::Subprotocol(offered))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    const GOOD: &str = "GET /any?x HTTP/1.1\r\nHost: kas.example.com\r\nConnection: keep-alive, Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: ws-tunnel\r\n\r\n";

    async fn answer(request: &str) -> (Vec<u8>, Result<Vec<u8>, HandshakeError>) {
        let (mut client, mut server) = duplex(64 << 10);
        client.write_all(request.as_bytes()).await.unwrap();
        let read = async {
            let mut answer = Vec::new();
            client.shutdown().await.unwrap();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let accept = async move { accept(&mut server, "kas/1", "Elsewhere.").await };
        tokio::join!(read, accept)
    }

    #[tokio::test]
    async fn an_agents_request_is_accepted() {
        let (answer, rest) = answer(&format!("{GOOD}rest")).await;

        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("Server: kas/1\r\n"));
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(answer.contains("Sec-WebSocket-Protocol: ws-tunnel\r\n"));
        assert_eq!(rest.unwrap(), b"rest");
    }

    #[tokio::test]
    async fn other_requests_get_their_answer() {
        let cases = [
            (
                GOOD.replace("websocket", "h2c"),
                "426",
                "Upgrade: websocket",
            ),
            (
                GOOD.replace("HTTP/1.1", "HTTP/1.0"),
                "426",
                "Connection: Upgrade",
            ),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), "426", "Upgrade"),
            (GOOD.replace("GET", "POST"), "405", ""),
            (GOOD.replace("13", "8"), "400", "Sec-WebSocket-Version: 13"),
            (GOOD.replace("-Key", "-Lock"), "400", ""),
            (
                GOOD.replace("Host", "Origin: https://evil.example\r\nHost"),
                "403",
                "",
            ),
            (GOOD.replace("Host", "Origin: null\r\nHost"), "403", ""),
            (GOOD.replace("GET", "G\u{0}T"), "400", ""),
        ];

        for (request, status, header) in cases {
            let (answer, result) = answer(&request).await;

            let answer = String::from_utf8(answer).unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            assert!(answer.contains("Server: kas/1\r\n"), "{answer}");
            assert!(answer.contains(header), "{answer}");
            assert!(answer.ends_with("\nElsewhere.\n"), "{answer}");
            result.unwrap_err();
        }
    }

    #[tokio::test]
    async fn the_same_origin_is_accepted() {
        let request = GOOD.replace("Host", "Origin: https://KAS.example.com\r\nHost");

        let (_, result) = answer(&request).await;

        result.unwrap();
    }

    #[tokio::test]
    async fn a_wrong_subprotocol_is_closed_after_the_handshake() {
        let (answer, result) = answer(&GOOD.replace("ws-tunnel", "chat")).await;

        let close = b"\x03\xeaExpecting \"ws-tunnel\" subprotocol, got \"\"";
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        assert!(answer.ends_with(close), "{}", answer.escape_ascii());
        assert!(matches!(result, Err(HandshakeError::Subprotocol(p)) if p == "chat"));
    }
}
