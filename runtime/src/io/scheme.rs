//! The ways in which a server is reached: four for agents, two for plain HTTP.

use std::fmt;

/// What a connection carries, and in what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// gRPC in clear.
    Grpc,
    /// gRPC in TLS.
    Grpcs,
    /// gRPC in a WebSocket in clear.
    Ws,
    /// gRPC in a WebSocket in TLS.
    Wss,
    /// Plain HTTP in clear; never an agent's.
    Http,
    /// Plain HTTP in TLS; never an agent's.
    Https,
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
        matches!(self, Self::Grpcs | Self::Wss | Self::Https)
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
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
