//! WebSocket in both roles, against tungstenite.

use std::io::{self, Read, Write};

use http::HeaderMap;
use runtime::websocket::{
    Role, WebSocket,
    handshake::{client, server},
    messages::{Incoming, Message, ReadError},
};
use tokio_tungstenite::tungstenite::{
    self, Error,
    protocol::{Role as TheirRole, WebSocketConfig},
};

use crate::{
    Bound, Long, Target, cut, nobody,
    wire::{Connection, now, read_all},
};

/// The longest message of a conversation, in bytes.
const MESSAGE_BYTES: usize = 64 << 10;
/// The longest message of a byte stream, in bytes.
const STREAM_MESSAGE_BYTES: usize = 10 << 20;

/// A client's frames, read as a byte stream.
pub(crate) const SERVER: Target = Target {
    name: "websocket_server",
    decode: |input| stream(input, Role::Server).output(),
    compare: |input| compare_streams(input, Role::Server, TheirRole::Server),
    output: Bound::per_byte(1, 256),
    memory: Bound::per_byte(4, 64 << 10),
    long: &[
        Long(b"\xff", b"\x82\x80\0\0\0\0", b""),
        Long(b"\xff", b"\x89\x80\0\0\0\0", b""),
        Long(b"\0", b"\x89\x81\x01\x02\x03\x04x", b""),
        Long(
            b"\xff\x02\x80\0\0\0\0",
            b"\0\x81\x01\x01\x01\x01x",
            b"\x80\x80\0\0\0\0",
        ),
        Long(b"\xff\x82\xff\0\0\0\0\0\x40\0\0\x01\x02\x03\x04", b"x", b""),
    ],
};

/// A server's frames, read as a byte stream.
pub(crate) const CLIENT: Target = Target {
    name: "websocket_client",
    decode: |input| stream(input, Role::Client).output(),
    compare: |input| compare_streams(input, Role::Client, TheirRole::Client),
    // The answer to an empty ping has a mask.
    output: Bound::per_byte(3, 256),
    memory: Bound::per_byte(8, 64 << 10),
    long: &[
        Long(b"\xff", b"\x82\0", b""),
        Long(b"\xff", b"\x89\0", b""),
        Long(b"\xff\x02\0", b"\0\x01x", b"\x80\0"),
        Long(b"\xff\x82\x7f\0\0\0\0\0\x40\0\0", b"x", b""),
    ],
};

/// A client's messages of a conversation.
pub(crate) const MESSAGES: Target = Target {
    name: "websocket_messages",
    decode: |input| messages(input).0.iter().map(length).sum(),
    compare: compare_messages,
    output: Bound::per_byte(1, 64),
    // A message of no bytes has a header of six.
    memory: Bound::per_byte(16, 256 << 10),
    long: &[
        Long(b"\xff", b"\x81\x80\0\0\0\0", b""),
        Long(b"\xff\x01\x80\0\0\0\0", b"\0\x81\x01\x01\x01\x01x", b""),
        Long(b"\xff", b"\x89\x80\0\0\0\0", b""),
    ],
};

/// The beginning of a WebSocket: of the server's side if the first byte is even, else of the client's.
pub(crate) const HANDSHAKE: Target = Target {
    name: "websocket_handshake",
    decode: handshake,
    compare: nobody,
    output: Bound::per_byte(4, 1 << 10),
    memory: Bound::per_byte(16, 128 << 10),
    long: &[
        Long(b"\xfeGET / HTTP/1.1\r\n", b"a:\r\n", b"\r\n"),
        Long(b"\0GET / HTTP/1.1\r\nx: ", b"y", b"\r\n\r\n"),
        Long(
            b"\xfeGET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Protocol: ",
            b",",
            b"\r\n\r\n",
        ),
        Long(b"\xffHTTP/1.1 101 ", b"x", b"\r\n\r\n"),
    ],
};

/// What was read of a byte stream, and what was answered.
struct Streamed {
    payload: Vec<u8>,
    end: io::Result<()>,
    answers: Vec<u8>,
}

impl Streamed {
    fn output(&self) -> usize {
        let error = self.end.as_ref().err();
        let error = error.map_or(0, |it| it.to_string().len().saturating_sub(600));
        self.payload.len() + self.answers.len() + error
    }

    /// Whether the last answer closes the WebSocket.
    fn closed(&self) -> bool {
        let mut rest = &self.answers[..];
        while let [first, second, ..] = rest {
            if *first == 0x88 {
                return true;
            }
            let mask = if second & 0x80 == 0 { 0 } else { 4 };
            rest = &rest[2 + mask + usize::from(second & 0x7F)..];
        }
        false
    }
}

fn stream(input: &[u8], role: Role) -> Streamed {
    let (piece, data) = cut(input);
    let mut connection = Connection::new(data, piece);
    let (payload, end) = read_all(WebSocket::new(&mut connection, role, None), 8 << 10);
    Streamed {
        payload,
        end,
        answers: connection.sent,
    }
}

/// What tungstenite reads from, and writes to.
struct Theirs<'i>(&'i [u8]);

impl Read for Theirs<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Theirs<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(data: &[u8], role: TheirRole, most: usize) -> tungstenite::WebSocket<Theirs<'_>> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(most))
        .max_frame_size(Some(most));
    tungstenite::WebSocket::from_raw_socket(Theirs(data), role, Some(config))
}

/// The payload of all binary messages that tungstenite takes, one behind the other, is the byte stream; and what is no
/// error here is none there.
fn compare_streams(input: &[u8], role: Role, their_role: TheirRole) {
    let ours = stream(input, role);
    let (_, data) = cut(input);
    let mut socket = theirs(data, their_role, STREAM_MESSAGE_BYTES);
    let mut payload = Vec::new();
    let error = loop {
        match socket.read() {
            Ok(tungstenite::Message::Binary(bytes)) => payload.extend_from_slice(&bytes),
            // These are no byte stream.
            Ok(tungstenite::Message::Text(_)) => return,
            Ok(tungstenite::Message::Close(_)) => {
                assert!(ours.closed(), "the end was not seen");
                break None;
            }
            Ok(_) => {}
            Err(error) => break Some(error),
        }
    };
    assert!(ours.payload.starts_with(&payload), "the payload differs");
    if ours.end.is_ok() && !ours.closed() {
        assert_eq!(ours.payload, payload);
        let at_the_end = matches!(
            error,
            Some(
                Error::Io(_)
                    | Error::Protocol(
                        tungstenite::error::ProtocolError::ResetWithoutClosingHandshake
                    )
            )
        );
        assert!(at_the_end, "{error:?}");
    }
}

/// The messages, and what came behind them that is none.
fn messages(input: &[u8]) -> (Vec<Message>, Option<ReadError>) {
    let (piece, data) = cut(input);
    let mut incoming = Incoming::new(Connection::new(data, piece));
    let mut all = Vec::new();
    loop {
        match now(incoming.next(MESSAGE_BYTES)) {
            Ok(message) => {
                let is_end = message == Message::Close;
                all.push(message);
                if is_end {
                    return (all, None);
                }
            }
            Err(error) => return (all, Some(error)),
        }
    }
}

fn length(message: &Message) -> usize {
    match message {
        Message::Text(bytes) | Message::Ping(bytes) => bytes.len(),
        Message::Pong | Message::Close => 0,
    }
}

/// All messages that tungstenite takes are taken here.
fn compare_messages(input: &[u8]) {
    let (_, data) = cut(input);
    let mut socket = theirs(data, TheirRole::Server, MESSAGE_BYTES);
    let (ours, end) = messages(input);
    let mut ours = ours.into_iter();
    while let Ok(message) = socket.read() {
        let message = match message {
            tungstenite::Message::Text(text) => Message::Text(text.as_bytes().to_vec()),
            tungstenite::Message::Ping(bytes) => Message::Ping(bytes.to_vec()),
            tungstenite::Message::Pong(_) => Message::Pong,
            tungstenite::Message::Close(_) => Message::Close,
            tungstenite::Message::Binary(_) | tungstenite::Message::Frame(_) => return,
        };
        match (ours.next(), &end) {
            // A binary message ends it before it is whole.
            (None, Some(ReadError::NotText)) => return,
            (ours, _) => assert_eq!(ours, Some(message)),
        }
    }
}

fn handshake(input: &[u8]) -> usize {
    let (piece, data) = cut(input);
    let mut connection = Connection::new(data, piece);
    let is_server = piece % 2 == 1;
    // Whoever is turned away is waited for a while, which takes a clock.
    let clock = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be had");
    let error = clock.block_on(async {
        if is_server {
            let accepted = server::accept(&mut connection, "kas", "directions").await;
            return accepted.err().map(|it| it.to_string());
        }
        let request = client::Request {
            host: "kas.example.com",
            path: "/",
            user_agent: "agentk",
            headers: &HeaderMap::new(),
        };
        let connected = client::connect(&mut connection, &request).await;
        connected.err().map(|it| it.to_string())
    });
    error.map_or(0, |it| it.len()) + connection.sent.len()
}
