//! What the streams of exec and attach carry, read as it passes: by WebSocket's channels or by SPDY's streams.

pub(super) mod spdy;
mod websocket;

use audit::Stream;
use http::{HeaderMap, header};
use runtime::websocket::overheard::NoWebSocket;
use serde::Deserialize;

use spdy::Spdy;
use websocket::WebSocket;

/// Bytes of a message that tells the size of a terminal, at most.
const MAX_RESIZE_BYTES: usize = 256;

/// Something that passed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passed<'a> {
    /// Bytes of a stream.
    Bytes(Stream, &'a [u8]),
    /// The terminal has so many columns and rows.
    Size(u16, u16),
}

/// What passed is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(pub(crate) &'static str);

impl From<NoWebSocket> for Unreadable {
    fn from(error: NoWebSocket) -> Self {
        Self(error.0)
    }
}

/// The streams of a connection.
#[derive(Debug)]
pub(super) enum Channels {
    WebSocket(Box<WebSocket>),
    Spdy(Box<Spdy>),
    /// Another protocol.
    Unknown,
}

impl Channels {
    /// By the headers of the answer that switched protocols.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|it| it.to_str().ok());
        let upgrade = text(header::UPGRADE).unwrap_or_default();
        if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
            return Self::Spdy(Box::default());
        }
        let is_websocket = upgrade.eq_ignore_ascii_case("websocket")
            && !headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS);
        // Without a protocol there are channels too.
        let protocol = text(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or("channel.k8s.io");
        match protocol {
            _ if !is_websocket => Self::Unknown,
            "v5.channel.k8s.io" | "v4.channel.k8s.io" | "channel.k8s.io" => {
                Self::WebSocket(Box::new(WebSocket::new(false)))
            }
            "v4.base64.channel.k8s.io" | "base64.channel.k8s.io" => {
                Self::WebSocket(Box::new(WebSocket::new(true)))
            }
            _ => Self::Unknown,
        }
    }

    /// Reads what the client sent.
    pub(super) fn read_sent(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(Passed<'_>),
    ) -> Result<(), Unreadable> {
        match self {
            Self::WebSocket(it) => it.read_sent(bytes, each),
            Self::Spdy(it) => it.read_sent(bytes, each),
            Self::Unknown => Err(Unreadable("its protocol is not known")),
        }
    }

    /// Reads what the client is sent.
    pub(super) fn read_answered(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(Passed<'_>),
    ) -> Result<(), Unreadable> {
        match self {
            Self::WebSocket(it) => it.read_answered(bytes, each),
            Self::Spdy(it) => it.read_answered(bytes, each),
            Self::Unknown => Err(Unreadable("its protocol is not known")),
        }
    }
}

/// Sizes of a terminal, as JSON objects one after the other.
#[derive(Debug, Default)]
struct Sizes(Vec<u8>);

#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

impl Sizes {
    fn take(&mut self, bytes: &[u8], each: &mut dyn FnMut(Passed<'_>)) -> Result<(), Unreadable> {
        for byte in bytes {
            if self.0.len() == MAX_RESIZE_BYTES {
                return Err(Unreadable("a size of the terminal that is none"));
            }
            self.0.push(*byte);
            if *byte == b'}' {
                let size = serde_json::from_slice::<Size>(&self.0);
                let size = size.map_err(|_| Unreadable("a size of the terminal that is none"))?;
                self.0.clear();
                each(Passed::Size(size.width, size.height));
            }
        }
        Ok(())
    }
}
