//! A line: one connection to kas, made again whenever it ends.
//!
//! The primary line never gives up. The others stand by when they fail, until kas has accepted the
//! agent on another line.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use runtime::{connect::ConnectError, telemetry::Causes};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use super::{Connection, Source, Uplink, Verdict, uplink::Place};
use crate::{
    backoff::{Outcome, ReconnectBackoff, shortened},
    last_failure::LastFailure,
    metrics::Metrics,
    token::TokenReader,
};

/// Failures in a row after which a line stands by.
pub(super) const STANDBY_FAILURES: u32 = 2;

/// Keeps one connection to kas.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) source: Arc<Source>,
    pub(super) token: TokenReader,
    pub(super) place: Place,
    pub(super) uplink: Uplink,
    pub(super) drivers: TaskTracker,
    pub(super) metrics: Metrics,
    pub(super) reconnect: ReconnectBackoff,
    /// Whether it goes on trying while no line is connected.
    pub(super) is_primary: bool,
    pub(super) failures: u32,
    /// The address of the last connection.
    pub(super) last_addr: Option<SocketAddr>,
    pub(super) last_failure: LastFailure,
}

/// Why a connection is not used any more.
enum LeaveReason {
    /// It broke, or the server sent GOAWAY.
    Ended,
    /// kas refuses the agent.
    Refused(tonic::Status),
    /// The token has changed.
    NewToken,
    /// The agent stops.
    Stopped,
}

impl Line {
    /// Keeps a connection until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = stop.cancelled() => break,
            };
            let (outcome, retry_after) = match connected {
                Ok(connection) => self.use_connection(connection, &stop).await,
                Err(error) => {
                    self.metrics.connection_failures.inc();
                    self.log_failure(&Causes(&error).to_string());
                    (Outcome::Failed, None)
                }
            };
            // The next one comes when kas dials again.
            if self.source.dials() {
                self.pause(outcome, retry_after, &stop).await;
            }
        }
    }

    async fn connect(&mut self) -> Result<Connection, ConnectError> {
        if !self.is_primary && self.failures >= STANDBY_FAILURES && self.source.dials() {
            self.uplink.until_accepted().await;
        }
        self.token.refresh().await;
        let mut avoid = self.place.addresses_of_others();
        avoid.extend(self.last_addr);
        let next = self.source.connection(self.token.bearer(), avoid);
        let (connection, driver) = next.await?;
        self.last_addr = connection.remote_addr();
        self.metrics.connections.inc();
        let remote_addr = self.last_addr.map(tracing::field::display);
        let span = tracing::info_span!("kas_connection", remote_addr);
        self.drivers.spawn(driver.instrument(span));
        Ok(connection)
    }

    /// Offers a connection to calls until it drains.
    async fn use_connection(
        &mut self,
        connection: Connection,
        stop: &CancellationToken,
    ) -> (Outcome, Option<Duration>) {
        let kas_url = self.source.clone();
        let remote_addr = connection.remote_addr().map(tracing::field::display);
        tracing::debug!(%kas_url, remote_addr, "connection established; waiting for kas to accept the agent");
        self.place.publish(Some(connection.clone()));
        let reason = self.watch(&connection, stop).await;
        connection.start_draining();
        self.place.publish(None);
        let worked = if connection.is_accepted() {
            self.metrics.connected.dec();
            Outcome::Worked
        } else {
            Outcome::Failed
        };
        let outcome = match reason {
            LeaveReason::Ended => {
                if worked == Outcome::Failed {
                    self.log_failure(
                        "the connection was closed before kas, or a proxy before it, answered a call",
                    );
                } else {
                    tracing::info!(%kas_url, remote_addr, "connection to kas ended; reconnecting");
                }
                worked
            }
            LeaveReason::Refused(status) => {
                self.metrics.connection_failures.inc();
                self.log_failure(&format!(
                    "kas rejected this agent ({:?}): {}",
                    status.code(),
                    status.message()
                ));
                Outcome::Refused
            }
            LeaveReason::NewToken => {
                tracing::info!("the agent's token has changed; reconnecting");
                Outcome::Worked
            }
            LeaveReason::Stopped => worked,
        };
        (outcome, connection.retry_after())
    }

    async fn watch(&mut self, connection: &Connection, stop: &CancellationToken) -> LeaveReason {
        let mut verdicts = connection.verdicts();
        loop {
            let verdict = verdicts.borrow_and_update().clone();
            match verdict {
                Verdict::None => {}
                Verdict::Accepted => self.accepted(),
                Verdict::Refused(status) => return LeaveReason::Refused(status),
            }
            tokio::select! {
                () = connection.draining() => return LeaveReason::Ended,
                () = self.token.changed() => return LeaveReason::NewToken,
                () = stop.cancelled() => return LeaveReason::Stopped,
                Ok(()) = verdicts.changed() => {}
            }
        }
    }

    fn accepted(&mut self) {
        self.metrics.connected.inc();
        self.last_failure.clear();
        tracing::info!(kas_url = %self.source, "connected to kas");
    }

    async fn pause(
        &mut self,
        outcome: Outcome,
        retry_after: Option<Duration>,
        stop: &CancellationToken,
    ) {
        self.failures = match outcome {
            Outcome::Worked => 0,
            Outcome::Failed | Outcome::Refused => self.failures.saturating_add(1),
        };
        let random = rand::random();
        let covered = self.place.is_covered();
        let delay = self.reconnect.delay(outcome, covered, retry_after, random);
        tracing::debug!(?delay, "waiting before reconnecting");
        // Whatever cut this connection may cut the other lines a moment later.
        let hurry = async {
            self.place.uncovered().await;
            tokio::time::sleep(shortened(delay, retry_after, random)).await;
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = hurry, if covered => {}
            () = self.token.changed() => {}
            () = stop.cancelled() => {}
        }
    }

    /// Logs a failure that repeats once.
    fn log_failure(&mut self, error: &str) {
        if self.last_failure.is_new(error) {
            tracing::error!(kas_url = %self.source, error, "no connection to kas; retrying");
        }
    }
}
