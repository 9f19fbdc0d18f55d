//! The client's half, with errors that say what to look at.

use std::io;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{MAX_HEADERS, SUBPROTOCOL, accept_key, header, lists, read_head};

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `Host`, with the port where it is not the scheme's own.
    pub host: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// `User-Agent`.
    pub user_agent: &'a str,
    /// Further headers.
    pub headers: &'a HeaderMap,
}

/// A WebSocket handshake that a server did not accept.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed or ended.
    #[error("the connection failed during the WebSocket handshake: {0}")]
    Io(#[from] io::Error),
    /// What arrived is not HTTP/1.1.
    #[error("the server's answer to the WebSocket handshake is not HTTP/1.1: {0}")]
    NotHttp(#[from] httparse::Error),
    /// The server answered with an HTTP status other than 101.
    #[error("the server answered the WebSocket handshake with HTTP {status} {reason}{}", hint(*status, location.as_deref()))]
    Status {
        /// The status.
        status: u16,
        /// Its text.
        reason: String,
        /// The `Location` header of a redirect.
        location: Option<String>,
    },
    /// The answer is not a WebSocket's.
    #[error("the server switched protocols, but {0}; a proxy in between may not support WebSocket")]
    NotWebSocket(&'static str),
    /// The server chose a subprotocol that was not offered.
    #[error(
        "the server chose the WebSocket subprotocol {0:?} instead of \"ws-tunnel\"; is it a kas?"
    )]
    Subprotocol(String),
}

/// Sends a WebSocket request and reads the answer; returns what the server
/// sent after it. The caller sets the deadline.
///
/// # Errors
/// [`HandshakeError`].
pub async fn connect<S>(io: &mut S, request: &Request<'_>) -> Result<Vec<u8>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    io.write_all(&head(request, &key)).await?;
    io.flush().await?;
    let (head, rest) = read_head(io).await?;
    check(&head, &key)?;
    Ok(rest)
}

fn head(request: &Request<'_>, key: &str) -> Vec<u8> {
    let Request {
        host,
        path,
        user_agent,
        headers,
    } = request;
    let mut head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {user_agent}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
    )
    .into_bytes();
    for (name, value) in headers.iter().filter(|(name, _)| !is_ours(name)) {
        write_header(&mut head, name, value);
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Headers that this handshake sets itself.
fn is_ours(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "host" | "user-agent" | "connection" | "upgrade"
    ) || name.as_str().starts_with("sec-websocket-")
}

pub(crate) fn write_header(head: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    head.extend_from_slice(name.as_str().as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value.as_bytes());
    head.extend_from_slice(b"\r\n");
}

fn check(head: &[u8], key: &str) -> Result<(), HandshakeError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    answer.parse(head)?;
    let status = answer.code.unwrap_or_default();
    if status != 101 {
        return Err(HandshakeError::Status {
            status,
            reason: answer.reason.unwrap_or_default().to_owned(),
            location: header(answer.headers, "location").map(str::to_owned),
        });
    }
    check_switch(answer.headers, key)
}

fn check_switch(headers: &[httparse::Header<'_>], key: &str) -> Result<(), HandshakeError> {
    if !lists(headers, "upgrade", "websocket") {
        return Err(HandshakeError::NotWebSocket("not to WebSocket"));
    }
    if !lists(headers, "connection", "upgrade") {
        return Err(HandshakeError::NotWebSocket(
            "without `Connection: Upgrade`",
        ));
    }
    if header(headers, "sec-websocket-accept") != Some(accept_key(key).as_str()) {
        return Err(HandshakeError::NotWebSocket(
            "with a Sec-WebSocket-Accept for another request",
        ));
    }
    match header(headers, "sec-websocket-protocol") {
        None | Some(SUBPROTOCOL) => Ok(()),
        Some(other) => Err(HandshakeError::Subprotocol(other.to_owned())),
    }
}

/// What an operator should look at when this status comes back.
fn hint(status: u16, location: Option<&str>) -> String {
    let hint = match status {
        200..=299 => "this address answers plain HTTP; is the path the one for agents?",
        301 | 302 | 303 | 307 | 308 => {
            let to = location.unwrap_or("somewhere else");
            return format!(
                "; it redirects to {to}: use the final address (wss:// instead of ws://?)"
            );
        }
        400 => {
            "a proxy in between may not pass on `Connection: Upgrade`, or the server expects TLS (wss://)"
        }
        401 | 403 => "a proxy in between refuses the request",
        404 => "nothing listens at this path; check host and path of the address",
        407 => "the HTTP proxy wants credentials",
        426 => "a proxy in between removed the `Upgrade` header",
        429 => "too many connections; trying again later may help",
        502..=504 => "a proxy in between cannot reach the server; is it running?",
        _ => return String::new(),
    };
    format!("; {hint}")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::{super::server, *};

    fn request(headers: &HeaderMap) -> Request<'_> {
        Request {
            host: "kas.example.com",
            path: "/-/kubernetes-agent/?q",
            user_agent: "agent/1",
            headers,
        }
    }

    async fn answered(answer: &'static [u8]) -> HandshakeError {
        let (mut client, mut server) = duplex(64 << 10);
        server.write_all(answer).await.unwrap();
        let headers = HeaderMap::new();

        connect(&mut client, &request(&headers)).await.unwrap_err()
    }

    #[tokio::test]
    async fn both_halves_agree() {
        let (mut client, mut server) = duplex(64 << 10);
        let headers = HeaderMap::new();
        let request = request(&headers);

        let (client, server) = tokio::join!(
            connect(&mut client, &request),
            server::accept(&mut server, "kas/1", "")
        );

        assert_eq!(client.unwrap(), b"");
        assert_eq!(server.unwrap(), b"");
    }

    #[tokio::test]
    async fn the_request_carries_our_headers() {
        let (mut client, mut server) = duplex(64 << 10);
        let mut headers = HeaderMap::new();
        headers.insert("x-team", HeaderValue::from_static("a"));
        headers.insert("host", HeaderValue::from_static("evil"));
        let request = request(&headers);

        let serve = async {
            let (head, _) = read_head(&mut server).await.unwrap();
            server.shutdown().await.unwrap();
            String::from_utf8(head).unwrap()
        };
        let (_, head) = tokio::join!(connect(&mut client, &request), serve);

        assert!(
            head.starts_with("GET /-/kubernetes-agent/?q HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nx-team: a\r\n"), "{head}");
        assert!(head.contains("\r\nUser-Agent: agent/1\r\n"), "{head}");
        assert!(!head.contains("evil"), "{head}");
    }

    #[tokio::test]
    async fn errors_say_what_to_look_at() {
        let moved = answered(b"HTTP/1.1 301 Moved\r\nLocation: https://x/\r\n\r\n").await;
        let missing = answered(b"HTTP/1.1 404 Not Found\r\n\r\n").await;
        let odd = answered(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n").await;
        let other = answered(b"SSH-2.0-OpenSSH\r\n\r\n").await;

        assert!(moved.to_string().contains("HTTP 301"), "{moved}");
        assert!(moved.to_string().contains("https://x/"), "{moved}");
        assert!(
            missing.to_string().contains("check host and path"),
            "{missing}"
        );
        assert!(matches!(odd, HandshakeError::NotWebSocket(_)));
        assert!(matches!(other, HandshakeError::NotHttp(_)));
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_is_an_error() {
        let (mut client, mut server) = duplex(64 << 10);
        let headers = HeaderMap::new();
        let request = request(&headers);
        let serve = async {
            let mut byte = [0];
            server.read_exact(&mut byte).await.unwrap();
            drop(server);
        };

        let (result, ()) = tokio::join!(connect(&mut client, &request), serve);

        assert!(matches!(result, Err(HandshakeError::Io(_))));
    }
}
