//! Reports events to kas, again and again until it acknowledges them.

use std::time::Duration;

use proto::events::rpc::{ReportRequest, collector_client::CollectorClient};
use runtime::grpc::FormerNames;
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
    /// Whether kas was an older one when it was last asked.
    former_names: bool,
}

impl Delivery {
    pub(super) fn new(uplink: Uplink) -> Self {
        let failed = "kas did not accept events; they stay queued";
        Self {
            follower: Follower::new(uplink, BACKOFF_MIN, BACKOFF_MAX, failed),
            rate: RateLimit::default(),
            former_names: false,
        }
    }

    /// Waits until there is a kas that collects events.
    pub(super) async fn until_wanted(&mut self) {
        loop {
            let attempt = self.follower.attempt().await;
            match self.report(&attempt, ReportRequest::default()).await {
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
            match self.report(&attempt, next).await {
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

    /// Reports by the name that kas knew last, then by the other: replicas may be of two versions.
    async fn report(&mut self, attempt: &Attempt, report: ReportRequest) -> Result<(), Status> {
        let first = send(attempt, report.clone(), self.former_names).await;
        let Err(unimplemented) = &first else {
            return Ok(());
        };
        if unimplemented.code() != Code::Unimplemented {
            return first;
        }
        let other = !self.former_names;
        if send(attempt, report, other).await.is_ok() {
            self.former_names = other;
            return Ok(());
        }
        // What a load balancer says to a name that it does not pass on is of no interest.
        first
    }
}

async fn send(attempt: &Attempt, report: ReportRequest, former_names: bool) -> Result<(), Status> {
    let channel = attempt.channel();
    let sending = async {
        if former_names {
            CollectorClient::new(FormerNames(channel))
                .report(report)
                .await
        } else {
            CollectorClient::new(channel).report(report).await
        }
    };
    match tokio::time::timeout(REPORT_TIMEOUT, sending).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(Status::deadline_exceeded("kas did not answer in time")),
    }
}
