//! Whether the other end of a connection still lives: it is asked only when
//! nothing comes by itself.

use std::{pin::pin, time::Duration};

use tokio::time::Instant;

use crate::io::Heard;

/// How soon a silent connection is asked for a sign of life.
#[derive(Debug, Clone, Copy)]
pub struct ProbeTimeouts {
    /// Silence after which it is asked while calls use it.
    pub busy: Duration,
    /// Silence after which it is asked while none do.
    pub idle: Duration,
    /// How long nothing at all may come while the answer is awaited.
    pub answer: Duration,
}

/// Waits until the other end gives no sign of life. Whatever comes is one: an
/// answer may be stuck behind a lot of data.
pub async fn unresponsive(
    mut pings: h2::PingPong,
    heard: Heard,
    patience: ProbeTimeouts,
    busy: impl Fn() -> bool,
) {
    let (mut mark, mut since) = (heard.mark(), Instant::now());
    loop {
        tokio::time::sleep(patience.busy.min(patience.idle)).await;
        if heard.mark() != mark {
            (mark, since) = (heard.mark(), Instant::now());
        }
        let limit = if busy() { patience.busy } else { patience.idle };
        if since.elapsed() < limit {
            continue;
        }
        if !answers(&mut pings, &heard, patience.answer).await {
            return;
        }
        (mark, since) = (heard.mark(), Instant::now());
    }
}

async fn answers(pings: &mut h2::PingPong, heard: &Heard, limit: Duration) -> bool {
    let mut answer = pin!(pings.ping(h2::Ping::opaque()));
    loop {
        let (mark, asked) = (heard.mark(), Instant::now());
        match tokio::time::timeout(limit, &mut answer).await {
            Ok(Ok(_)) => return true,
            // The connection is over, which its own task finds out.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) if heard.mark() != mark => {}
            // Much too late: this process stood still, not the other end.
            Err(_) if asked.elapsed() > 2 * limit => {}
            Err(_) => return false,
        }
    }
}
