//! Ready is `kas up` when a request went the whole way: users' port, tunnel, agent, the cluster's API.

use std::time::Duration;

use anyhow::bail;
use playground::traffic::Endpoint;
use tokio::time::{Instant, sleep};

use super::console::Console;

/// How long it may take before something must be wrong.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take before it is said why.
const SILENCE: Duration = Duration::from_secs(3);
/// Between two attempts, at first and at most.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Waits for the first request that succeeds, and says meanwhile what is in the way.
///
/// # Errors
/// When none does; with the last answer.
pub(super) async fn first_request(
    endpoint: &Endpoint,
    console: &mut Console,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut backoff = RETRY_BACKOFF;
    let mut said = String::new();
    loop {
        let Err(error) = endpoint.ask().await else {
            return Ok(());
        };
        let why = format!("{:#}", anyhow::Error::from(error));
        if began.elapsed() >= READY_TIMEOUT {
            bail!(
                "no request went through to the cluster within {} s: {why}; run again with RUST_LOG=info to see more",
                READY_TIMEOUT.as_secs()
            );
        }
        if began.elapsed() >= SILENCE && said != why {
            console.say(&format!("not yet ready: a request failed: {why}"));
            said = why;
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(RETRY_BACKOFF_MAX);
    }
}
