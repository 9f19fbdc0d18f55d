//! What kas counts.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::{http, kas::Kas, wait::until};

/// A busy machine takes longer than a second.
const SOON: Duration = Duration::from_secs(60);

/// A metric of kas, by its line up to the number.
pub(crate) async fn metric(kas: &Kas, name: &str) -> Option<u64> {
    metric_at(kas.observability, name).await
}

/// The same of a replica whose observability port this is.
pub(crate) async fn metric_at(port: u16, name: &str) -> Option<u64> {
    let url = format!("http://127.0.0.1:{port}/metrics");
    let answer = http::get(&url, "").await.ok()?;
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

/// Waits until a metric has this value.
///
/// # Errors
/// When it does not come to it.
pub(crate) async fn becomes(kas: &Kas, name: &str, wanted: u64) -> Result<()> {
    let there = async || (metric(kas, name).await? == wanted).then_some(());
    let there = until(&format!("{name}to be {wanted}"), SOON, there).await;
    there.with_context(|| kas.process.tail())
}

/// Waits until kas has seen that an agent is there no more.
///
/// # Errors
/// When it does not.
pub(crate) async fn is_gone(kas: &Kas, name: &str) -> Result<()> {
    let id = kas.agent_id(name).await?;
    let up = format!("agent_up{{agent_id=\"{id}\",agent_name=\"{name}\"}} ");
    becomes(kas, &up, 0).await
}
