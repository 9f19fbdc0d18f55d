//! One request, and whether it is answered yet.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep};

use super::Bench;
use crate::traffic;

/// The path of a small answer.
pub(super) const BODY: &str = "/json/4096";
/// How long the agent may take to be reachable.
const REACHABLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// A request to `url` as the only user there is, for the first agent.
pub(super) fn options(bench: &Bench, url: String) -> traffic::Options {
    traffic::Options {
        url,
        bearer: Some(bench.control.bearer("1")),
        ..Default::default()
    }
}

/// Waits until requests like this one are answered.
pub(super) async fn reachable(mut once: traffic::Options) -> anyhow::Result<()> {
    let deadline = Instant::now() + REACHABLE_TIMEOUT;
    once.requests = Some(1);
    once.timeout = Some(5.0);
    while traffic::send(&once).await?.errors() > 0 {
        ensure!(Instant::now() < deadline, "the agent cannot be reached");
        sleep(RETRY_INTERVAL).await;
    }
    Ok(())
}
