//! Keeps connections to kas that new calls can use.
//!
//! The agent dials kas, or waits until kas dials it ([`source`]).
//! There are several lines, so that the loss of one connection leaves another
//! that is ready. A connection that the server wants to end is left at once: the
//! next one is made while the calls on the old one go on to their ends.

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
pub(crate) use dial::Dialer;
pub(crate) use follower::{Attempt, Follower};
pub(crate) use source::{Arrivals, Source};
pub(crate) use uplink::Uplink;

use crate::{backoff::Reconnect, last_failure::LastFailure, metrics::Metrics, token::TokenReader};
use line::Line;

/// How long connections may take to close in order when the agent stops.
const CLOSE: Duration = Duration::from_secs(2);

/// All lines.
#[derive(Debug)]
pub(crate) struct Session {
    lines: Vec<Line>,
    drivers: TaskTracker,
}

impl Session {
    /// So many lines, at least one, where the agent dials.
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
            reconnect: Reconnect::new(),
            leads: number == 0,
            // Another line shows first whether kas wants this agent.
            failures: if number == 0 { 0 } else { line::STAND_BY },
            last: None,
            failure: LastFailure::default(),
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
        let _ = tokio::time::timeout(CLOSE, self.drivers.wait()).await;
    }
}
