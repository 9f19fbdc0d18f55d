//! Upgrades to WebSocket, and whether its pings are answered.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::{Instant, timeout};

use super::super::{QUESTION_TIMEOUT, remedies::Fault};
use crate::{
    connect::{ConnectError, ConnectOptions, Target, connect_http1},
    io::Transport,
    websocket::{
        answers_ping,
        handshake::client::{self, HandshakeError, Request},
    },
};

const PONG_TIMEOUT: Duration = Duration::from_secs(5);

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

/// Asks for a WebSocket as agents do, with these headers besides theirs.
pub(super) async fn upgrade(
    target: &Target,
    options: &ConnectOptions,
    more: &HeaderMap,
) -> Result<Transport, UpgradeError> {
    let mut headers = options.headers.clone();
    headers.extend(more.clone());
    let upgrading = async {
        let mut io = connect_http1(target, options).await?;
        let request = Request {
            host: &target.authority(),
            path: target.path_and_query(),
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

/// How long the pong took; none if there was none.
pub(super) async fn pong(io: &mut Transport) -> Option<Duration> {
    let began = Instant::now();
    let answered = timeout(PONG_TIMEOUT, answers_ping(io)).await;
    answered.ok()?.ok()?;
    Some(began.elapsed())
}
