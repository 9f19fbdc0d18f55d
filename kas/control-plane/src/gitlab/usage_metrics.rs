//! `usage_metrics` and `agent_events`: reports to GitLab how this server is used.

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
use crate::usage::{EventReport, Report, Usage};

const PATH: &str = "/api/v4/internal/kubernetes/usage_metrics";
/// Since GitLab 17.
const EVENTS_PATH: &str = "/api/v4/internal/kubernetes/agent_events";
/// After this time a GitLab that did not know events may have been upgraded.
const EVENTS_UNKNOWN_PAUSE: Duration = Duration::from_secs(600);
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

    /// Reports events. Tried once, as usage is.
    ///
    /// # Errors
    /// When GitLab does not take it; with 404 it does not know of events.
    pub async fn post_agent_events(&self, report: &EventReport) -> Result<(), CallError> {
        let body =
            serde_json::to_vec(report).map_err(|e| CallError::InvalidRequest(e.to_string()))?;
        let endpoint = Endpoint::AgentEvents;
        let call = Call {
            retried: false,
            ..Call::post(endpoint, EVENTS_PATH, Bytes::from(body), Expect::Nothing)
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
        let mut events_from = Instant::now();
        while stop.run_until_cancelled(sleep_until(next)).await.is_some() {
            self.report_once(&usage).await;
            self.report_events(&usage, &mut events_from).await;
            next = (next + period).max(Instant::now());
        }
        let last = async {
            self.report_once(&usage).await;
            self.report_events(&usage, &mut events_from).await;
        };
        if timeout(LAST_REPORT_TIMEOUT, last).await.is_err() {
            tracing::info!("last usage report to GitLab timed out");
        }
    }

    /// Reports events, unless GitLab did not know of them lately.
    async fn report_events(&self, usage: &Usage, from: &mut Instant) {
        let report = usage.event_report();
        if report.is_empty() {
            return;
        }
        if Instant::now() < *from {
            return usage.events_reported(&report);
        }
        match self.client().post_agent_events(&report).await {
            Ok(()) => usage.events_reported(&report),
            Err(error) if error.refusal() == Some(404) => {
                *from = Instant::now() + EVENTS_UNKNOWN_PAUSE;
                usage.events_reported(&report);
                tracing::debug!(%error, "this GitLab does not take events of agents");
            }
            Err(error) => {
                tracing::warn!(%error, "could not send events of agents to GitLab; they go into the next report");
            }
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
