//! Whether pings of a WebSocket are answered.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::{io::Transport, websocket::answers_ping};

const PONG_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the pong took; none if there was none.
pub(super) async fn pong(io: &mut Transport) -> Option<Duration> {
    let began = Instant::now();
    let answered = timeout(PONG_TIMEOUT, answers_ping(io)).await;
    answered.ok()?.ok()?;
    Some(began.elapsed())
}
