//! The forms of what exec and attach are told on their channel for errors.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};

use crate::failure::Failure;

/// The protocol that a client and a cluster have agreed on, where it is SPDY's.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// What is said on the channel for errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errors {
    /// A `Status`: at every end, of success too.
    Status,
    /// A `Status` as a text of base64, where channels are digits.
    StatusInBase64,
    /// Words, if it fails.
    Words,
}

impl Errors {
    /// By the answer to a WebSocket's handshake.
    pub(super) fn of_websocket(headers: &HeaderMap) -> Option<Self> {
        let protocol = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
        match protocol {
            "v5.channel.k8s.io" | "v4.channel.k8s.io" => Some(Self::Status),
            "v4.base64.channel.k8s.io" => Some(Self::StatusInBase64),
            "channel.k8s.io" => Some(Self::Words),
            _ => None,
        }
    }

    /// By the answer to an upgrade to SPDY.
    pub(super) fn of_spdy(headers: &HeaderMap) -> Self {
        let protocol = headers.get(STREAM_PROTOCOL).and_then(|it| it.to_str().ok());
        match protocol {
            Some("v5.channel.k8s.io" | "v4.channel.k8s.io") => Self::Status,
            _ => Self::Words,
        }
    }

    /// Whether a command that has ended well is told of too.
    pub(super) fn tells_success(self) -> bool {
        match self {
            Self::Status | Self::StatusInBase64 => true,
            Self::Words => false,
        }
    }

    /// How a failure is said.
    pub(super) fn of(self, failure: &Failure) -> Vec<u8> {
        match self {
            Self::Status => failure.body(false).into_bytes(),
            Self::StatusInBase64 => STANDARD.encode(failure.body(false)).into_bytes(),
            Self::Words => failure.message.clone().into_bytes(),
        }
    }
}
