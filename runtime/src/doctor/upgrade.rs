//! Upgrades to WebSocket, as agents and users ask for them.

use http::HeaderMap;
use tokio::time::timeout;

use super::{QUESTION_TIMEOUT, remedies::Fault};
use crate::{
    connect::{ConnectError, ConnectOptions, Target, connect_http1},
    io::Transport,
    websocket::handshake::client::{self, HandshakeError, Request},
};

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("no answer to the upgrade within {QUESTION_TIMEOUT:?}")]
    Timeout,
}

impl UpgradeError {
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Connect(_) => Fault::Unreachable,
            Self::Timeout => Fault::NoUpgrade,
            Self::Handshake(error) => match error {
                HandshakeError::Status { status, .. } => match status {
                    502..=504 => Fault::NoUpstream,
                    400 | 426 | 501 => Fault::NoUpgrade,
                    431 => Fault::HeaderLimit,
                    _ => Fault::NotKas,
                },
                HandshakeError::NotWebSocket(_) => Fault::NoUpgrade,
                HandshakeError::Io(_)
                | HandshakeError::NotHttp(_)
                | HandshakeError::Subprotocol(_) => Fault::NotKas,
            },
        }
    }
}

/// Asks for a WebSocket at this path, with these headers besides those of the options.
pub(super) async fn upgrade(
    target: &Target,
    options: &ConnectOptions,
    path: &str,
    more: &HeaderMap,
) -> Result<Transport, UpgradeError> {
    let mut headers = options.headers.clone();
    headers.extend(more.clone());
    let upgrading = async {
        let mut io = connect_http1(target, options).await?;
        let request = Request {
            host: &target.authority(),
            path,
            user_agent: &options.user_agent,
            headers: &headers,
        };
        let rest = client::connect(&mut io, &request).await?;
        io.put_back(rest);
        Ok(io)
    };
    match timeout(QUESTION_TIMEOUT, upgrading).await {
        Ok(upgraded) => upgraded,
        Err(_) => Err(UpgradeError::Timeout),
    }
}
