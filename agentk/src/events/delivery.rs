//! Tells kas, and tells it again until it says that it has the events.

use std::time::Duration;

use proto::events::rpc::{ReportRequest, collector_client::CollectorClient};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Waiting, pace::Pace};
use crate::{
    backoff::HotLoop,
    session::{Connection, Uplink},
};

/// Events that are told in one call.
const BATCH: usize = 100;
/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a connection is not asked again whose kas does not know events.
const UNKNOWN: Duration = Duration::from_secs(300);

/// The way to kas.
#[derive(Debug)]
pub(super) struct Delivery {
    uplink: Uplink,
    hot: HotLoop,
    pace: Pace,
    complaint: Option<String>,
}

/// kas does not know events.
struct Unknown;

impl Delivery {
    pub(super) fn new(uplink: Uplink) -> Self {
        Self {
            uplink,
            hot: HotLoop::new(Duration::from_secs(1), Duration::from_secs(30)),
            pace: Pace::default(),
            complaint: None,
        }
    }

    /// Waits until there is a kas that wants events.
    pub(super) async fn until_wanted(&mut self) {
        loop {
            let connection = self.uplink.connection().await;
            match self.report(&connection, ReportRequest::default()).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(Unknown) => {
                    tracing::debug!("kas does not know events");
                    tokio::select! {
                        () = tokio::time::sleep(UNKNOWN) => {}
                        () = connection.left() => {}
                    }
                }
            }
        }
    }

    /// Tells what waits. Ends when kas does not want it any more.
    pub(super) async fn run(&mut self, waiting: &Waiting) {
        loop {
            let next = waiting.queue().next(BATCH);
            let Some(report) = next else {
                waiting.filled.notified().await;
                continue;
            };
            let events = u32::try_from(report.events.len()).unwrap_or(u32::MAX);
            let connection = self.uplink.connection().await;
            match self.report(&connection, report).await {
                Ok(true) => {
                    waiting.queue().acknowledged();
                    waiting.metrics.events_told.inc_by(events.into());
                    let pause = self.pace.told(events, Instant::now());
                    tokio::time::sleep(pause).await;
                }
                Ok(false) => {}
                Err(Unknown) => return,
            }
        }
    }

    /// Whether kas has it; if not, it is time to tell it again.
    async fn report(
        &mut self,
        connection: &Connection,
        report: ReportRequest,
    ) -> Result<bool, Unknown> {
        let mut client = CollectorClient::new(connection.channel());
        let call = tokio::time::timeout(DEADLINE, client.report(report)).await;
        let status = match call {
            Ok(Ok(_)) => {
                connection.accept();
                self.hot.reset();
                self.complaint = None;
                return Ok(true);
            }
            Ok(Err(status)) if status.code() == Code::Unimplemented => return Err(Unknown),
            Ok(Err(_)) if connection.ends().await => return Ok(false),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("kas does not answer"),
        };
        connection.judge(&status);
        self.complain(&status);
        let pause = self.hot.after_refusal(rand::random());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = connection.left() => {}
        }
        Ok(false)
    }

    /// Says a thing once, however often it happens.
    fn complain(&mut self, status: &Status) {
        let complaint = format!("{:?}: {}", status.code(), status.message());
        if self.complaint.as_ref() != Some(&complaint) {
            tracing::warn!(error = complaint, "kas does not take events; they wait");
            self.complaint = Some(complaint);
        }
    }
}
