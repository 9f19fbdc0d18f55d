//! `usage_metrics`: reports to GitLab how this server is used.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    GitLab,
    call::{Call, Endpoint, Expect},
    client::Client,
    error::CallError,
};
use crate::usage::{Report, Usage};

const PATH: &str = "/api/v4/internal/kubernetes/usage_metrics";
/// How long the last report may take.
const LAST_REPORT_TIMEOUT: Duration = Duration::from_secs(5);

impl Client {
    /// Reports usage. Tried once, since a report that GitLab has taken without
    /// saying so would count twice.
    ///
    /// # Errors
    /// When GitLab does not take it.
    pub async fn post_usage(&self, report: &Report) -> Result<(), CallError> {
        let body =
            serde_json::to_vec(report).map_err(|e| CallError::InvalidRequest(e.to_string()))?;
        let endpoint = Endpoint::UsageMetrics;
        let call = Call {
            retried: false,
            ..Call::post(endpoint, PATH, Bytes::from(body), Expect::Nothing)
        };
        self.call(&call).await.map(drop)
    }
}

impl GitLab {
    /// Reports usage in every period, and once more at the end. A period of
    /// zero reports nothing.
    pub async fn report_usage(self, usage: Usage, period: Duration, stop: CancellationToken) {
        if period.is_zero() {
            return;
        }
        let mut next = Instant::now() + period;
        while stop.run_until_cancelled(sleep_until(next)).await.is_some() {
            self.report_once(&usage).await;
            next = (next + period).max(Instant::now());
        }
        if timeout(LAST_REPORT_TIMEOUT, self.report_once(&usage))
            .await
            .is_err()
        {
            tracing::info!("last usage report to GitLab timed out");
        }
    }

    async fn report_once(&self, usage: &Usage) {
        let report = usage.report();
        if report.is_empty() {
            return;
        }
        match self.client().post_usage(&report).await {
            Ok(()) => usage.reported(&report),
            Err(error) => {
                tracing::warn!(%error, "could not send a usage report to GitLab; its counts go into the next one");
            }
        }
    }
}
