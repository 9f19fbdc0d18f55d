//! Keeps connections to kas for new calls.
//!
//! The agent dials kas, or waits until kas dials it ([`source`]). A *line* is one connection that is made again
//! whenever it ends; with several, the loss of one leaves another that is ready. After a GOAWAY the next connection is
//! made at once, while the calls on the old one, which *drains*, go on to their ends.

mod connection;
mod dial;
mod driver;
mod follower;
mod line;
mod source;
mod uplink;

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use connection::{Connection, Verdict, is_refusal, retry_after};
pub(crate) use dial::{Dialer, headers};
pub(crate) use follower::{Attempt, Follower};
pub(crate) use source::{IncomingConnections, Source};
pub(crate) use uplink::Uplink;

use crate::{
    backoff::ReconnectBackoff, last_failure::LastFailure, metrics::Metrics, token::TokenReader,
};
use line::Line;

/// How long connections may take to close in order when the agent stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// All lines to kas.
#[derive(Debug)]
pub(crate) struct Session {
    lines: Vec<Line>,
    drivers: TaskTracker,
}

impl Session {
    /// Makes so many lines, at least one, where the agent dials.
    pub(crate) fn new(
        source: Source,
        token: &TokenReader,
        metrics: &Metrics,
        lines: usize,
    ) -> (Self, Uplink) {
        let lines = source.lines(lines);
        let source = Arc::new(source);
        let drivers = TaskTracker::new();
        let (places, uplink) = uplink::places(lines);
        let lines = places.into_iter().enumerate().map(|(number, place)| Line {
            source: source.clone(),
            token: token.clone(),
            place,
            uplink: uplink.clone(),
            drivers: drivers.clone(),
            metrics: metrics.clone(),
            reconnect: ReconnectBackoff::new(),
            is_primary: number == 0,
            // The primary line shows first whether kas accepts this agent.
            failures: if number == 0 {
                0
            } else {
                line::STANDBY_FAILURES
            },
            last_addr: None,
            last_failure: LastFailure::default(),
        });
        let session = Self {
            lines: lines.collect(),
            drivers,
        };
        (session, uplink)
    }

    /// Keeps connections until `stop`, then closes them and waits for their end.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut lines = JoinSet::new();
        for line in self.lines {
            lines.spawn(line.run(stop.clone()));
        }
        while lines.join_next().await.is_some() {}
        self.drivers.close();
        // Nothing is lost if the other end does not close in time.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.drivers.wait()).await;
    }
}
