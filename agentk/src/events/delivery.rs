//! Reports events to kas, again and again until it acknowledges them.

use std::time::Duration;

use proto::events::rpc::{ReportRequest, collector_client::CollectorClient};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{PendingEvents, rate::RateLimit};
use crate::session::{Attempt, Follower, Uplink};

/// Events in one report.
const REPORT_EVENTS: usize = 100;
/// How long kas may take to acknowledge a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Delivers reports.
#[derive(Debug)]
pub(super) struct Delivery {
    follower: Follower,
    rate: RateLimit,
}

impl Delivery {
    pub(super) fn new(uplink: Uplink) -> Self {
        let failed = "kas did not accept events; they stay queued";
        Self {
            follower: Follower::new(uplink, BACKOFF_MIN, BACKOFF_MAX, failed),
            rate: RateLimit::default(),
        }
    }

    /// Waits until there is a kas that collects events.
    pub(super) async fn until_wanted(&mut self) {
        loop {
            let attempt = self.follower.attempt().await;
            match report(&attempt, ReportRequest::default()).await {
                Ok(()) => return self.follower.answered(attempt, Duration::ZERO).await,
                Err(status) if status.code() == Code::Unimplemented => {
                    tracing::debug!("kas does not collect events");
                    self.follower.unimplemented(attempt).await;
                }
                Err(status) => self.follower.failed(attempt, &status).await,
            }
        }
    }

    /// Reports what is pending. Ends when kas does not collect events any more.
    pub(super) async fn run(&mut self, pending: &PendingEvents) {
        loop {
            let next = pending.queue().next(REPORT_EVENTS);
            let Some(next) = next else {
                pending.filled.notified().await;
                continue;
            };
            let events = u32::try_from(next.events.len()).unwrap_or(u32::MAX);
            let attempt = self.follower.attempt().await;
            match report(&attempt, next).await {
                Ok(()) => {
                    pending.queue().acknowledged();
                    pending.metrics.events_reported.inc_by(events.into());
                    self.follower.answered(attempt, Duration::ZERO).await;
                    let pause = self.rate.after(events, Instant::now());
                    tokio::time::sleep(pause).await;
                }
                Err(status) if status.code() == Code::Unimplemented => return,
                Err(status) => self.follower.failed(attempt, &status).await,
            }
        }
    }
}

async fn report(attempt: &Attempt, report: ReportRequest) -> Result<(), Status> {
    let mut client = CollectorClient::new(attempt.channel());
    match tokio::time::timeout(REPORT_TIMEOUT, client.report(report)).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(Status::deadline_exceeded("kas did not answer in time")),
    }
}
