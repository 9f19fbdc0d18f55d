//! The four ways in which an agent reaches its server.

use std::fmt;

/// How HTTP/2 is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In clear.
    Grpc,
    /// In TLS.
    Grpcs,
    /// In a WebSocket in clear.
    Ws,
    /// In a WebSocket in TLS.
    Wss,
}

impl Scheme {
    pub(crate) fn new(websocket: bool, tls: bool) -> Self {
        match (websocket, tls) {
            (false, false) => Self::Grpc,
            (false, true) => Self::Grpcs,
            (true, false) => Self::Ws,
            (true, true) => Self::Wss,
        }
    }

    /// Whether TLS is used.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Grpcs | Self::Wss)
    }

    /// Whether a WebSocket is used.
    #[must_use]
    pub fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// As written in URLs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
