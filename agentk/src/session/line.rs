//! One line to kas: makes connections, one after the other.
//!
//! The first line tries for ever. The others stand by when they fail, until kas
//! has accepted the agent on another line.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use runtime::connect::ConnectError;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Connection, Source, Uplink, Verdict, uplink::Place};
use crate::{
    backoff::{Ended, Reconnect, hurried},
    error_chain::chain,
    last_failure::LastFailure,
    metrics::Metrics,
    token::TokenReader,
};

/// Failures in a row after which a line stands by.
pub(super) const STAND_BY: u32 = 2;

/// Keeps one connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) source: Arc<Source>,
    pub(super) token: TokenReader,
    pub(super) place: Place,
    pub(super) uplink: Uplink,
    pub(super) drivers: TaskTracker,
    pub(super) metrics: Metrics,
    pub(super) reconnect: Reconnect,
    /// Whether it tries even if nobody is connected.
    pub(super) leads: bool,
    pub(super) failures: u32,
    /// Where the last connection led to.
    pub(super) last: Option<SocketAddr>,
    pub(super) failure: LastFailure,
}

/// Why a connection is not used any more.
enum Left {
    /// It broke, or the server said that it will end.
    Ended,
    /// kas refuses the agent.
    Refused(tonic::Status),
    /// There is another token.
    NewToken,
    /// The agent stops.
    Stopped,
}

impl Line {
    /// Keeps a connection until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let ended = tokio::select! {
                connected = self.connect() => connected,
                () = stop.cancelled() => break,
            };
            let (ended, hint) = match ended {
                Ok(connection) => self.attend(connection, &stop).await,
                Err(error) => {
                    self.metrics.connection_failures.inc();
                    self.failed(&chain(&error));
                    (Ended::Failed, None)
                }
            };
            // The next one comes when kas dials again.
            if self.source.dials() {
                self.pause(ended, hint, &stop).await;
            }
        }
    }

    async fn connect(&mut self) -> Result<Connection, ConnectError> {
        if !self.leads && self.failures >= STAND_BY && self.source.dials() {
            self.uplink.until_accepted().await;
        }
        self.token.refresh().await;
        let mut avoid = self.place.addresses_of_others();
        avoid.extend(self.last);
        let next = self.source.connection(self.token.bearer(), avoid);
        let (connection, driver) = next.await?;
        self.last = connection.peer();
        self.metrics.connections.inc();
        self.drivers.spawn(driver);
        Ok(connection)
    }

    /// Lets calls use a connection until it is to be left.
    async fn attend(
        &mut self,
        connection: Connection,
        stop: &CancellationToken,
    ) -> (Ended, Option<Duration>) {
        let kas_url = self.source.clone();
        tracing::debug!(%kas_url, "connected");
        self.place.show(Some(connection.clone()));
        let left = self.watch(&connection, stop).await;
        connection.leave();
        self.place.show(None);
        let worked = if connection.is_accepted() {
            self.metrics.connected.dec();
            Ended::Worked
        } else {
            Ended::Failed
        };
        let ended = match left {
            Left::Ended => {
                if worked == Ended::Failed {
                    self.failed("kas or what stands before it ended the connection before it answered a call");
                } else {
                    tracing::info!(%kas_url, "a connection to kas ended; making another");
                }
                worked
            }
            Left::Refused(status) => {
                self.metrics.connection_failures.inc();
                self.failed(&format!(
                    "kas refuses the agent's token ({:?}): {}",
                    status.code(),
                    status.message()
                ));
                Ended::Refused
            }
            Left::NewToken => {
                tracing::info!("the token has changed; connecting with the new one");
                Ended::Worked
            }
            Left::Stopped => worked,
        };
        (ended, connection.hint())
    }

    async fn watch(&mut self, connection: &Connection, stop: &CancellationToken) -> Left {
        let mut verdicts = connection.verdicts();
        loop {
            let verdict = verdicts.borrow_and_update().clone();
            match verdict {
                Verdict::None => {}
                Verdict::Accepted => self.accepted(),
                Verdict::Refused(status) => return Left::Refused(status),
            }
            tokio::select! {
                () = connection.left() => return Left::Ended,
                () = self.token.changed() => return Left::NewToken,
                () = stop.cancelled() => return Left::Stopped,
                Ok(()) = verdicts.changed() => {}
            }
        }
    }

    fn accepted(&mut self) {
        self.metrics.connected.inc();
        self.failure.clear();
        tracing::info!(kas_url = %self.source, "connected to kas");
    }

    async fn pause(&mut self, ended: Ended, hint: Option<Duration>, stop: &CancellationToken) {
        self.failures = match ended {
            Ended::Worked => 0,
            Ended::Failed | Ended::Refused => self.failures.saturating_add(1),
        };
        let random = rand::random();
        let covered = self.place.is_covered();
        let delay = self.reconnect.delay(ended, covered, hint, random);
        tracing::debug!(?delay, "waiting before the next connection");
        // What cut this connection may cut the others a moment later.
        let hurry = async {
            self.place.uncovered().await;
            tokio::time::sleep(hurried(delay, hint, random)).await;
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = hurry, if covered => {}
            () = self.token.changed() => {}
            () = stop.cancelled() => {}
        }
    }

    /// Logs a failure that repeats once.
    fn failed(&mut self, error: &str) {
        if self.failure.is_new(error) {
            tracing::error!(kas_url = %self.source, error, "no connection to kas; retrying");
        }
    }
}
