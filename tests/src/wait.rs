//! Waiting for a condition with a deadline.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(50);

/// Asks `probe` again and again until it gives a value.
///
/// # Errors
/// When `limit` is over; the error names `what` was waited for.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe().await {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("gave up after {limit:?} waiting for {what}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks `probe` again and again until nothing is missing. It may take long, as long as it goes on: the patience
/// starts anew whenever what is missing changes.
///
/// # Errors
/// When nothing changes for `patience`; the error names `what` was waited for, and what is missing.
pub async fn until_nothing_is_missing<M: std::fmt::Debug + Default + PartialEq>(
    what: &str,
    patience: Duration,
    mut probe: impl AsyncFnMut() -> M,
) -> Result<()> {
    let mut missing = probe().await;
    let mut changed = Instant::now();
    while missing != M::default() {
        if changed.elapsed() >= patience {
            bail!(
                "waiting for {what}: nothing changed for {patience:?}, and {missing:?} is missing"
            );
        }
        tokio::time::sleep(LOOK).await;
        let now = probe().await;
        if now != missing {
            (missing, changed) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Waits until something accepts TCP connections on `port` of loopback.
///
/// # Errors
/// When nobody does within `limit`.
pub async fn until_accepts(port: u16, limit: Duration) -> Result<()> {
    let connect = async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .ok()
    };
    until(&format!("a listener on port {port}"), limit, connect)
        .await
        .map(drop)
}
