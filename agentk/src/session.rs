//! Keeps one connection to kas that new calls can use.
//!
//! A connection that the server wants to end is left at once: the next one is
//! made while the calls on the old one go on to their ends.

mod connection;
mod dial;
mod driver;

use std::time::Duration;

use runtime::connect::ConnectError;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use connection::{Connection, Verdict, is_refusal, retry_after};
pub(crate) use dial::Dialer;

use crate::{
    backoff::{Ended, Reconnect},
    metrics::Metrics,
    token::TokenReader,
};

/// How long connections may take to close in order when the agent stops.
const CLOSE: Duration = Duration::from_secs(2);

/// Gives out the connection that new calls use.
#[derive(Debug, Clone)]
pub(crate) struct Uplink(watch::Receiver<Option<Connection>>);

impl Uplink {
    /// Waits for a connection that can be used. Cancel-safe.
    pub(crate) async fn connection(&self) -> Connection {
        let mut current = self.0.clone();
        loop {
            let usable = current
                .wait_for(|current| current.as_ref().is_some_and(|it| !it.is_left()))
                .await
                .map(|current| current.clone());
            match usable {
                Ok(Some(connection)) => return connection,
                Ok(None) => {}
                // The session has ended; so will whoever waits here.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Waits until there is a usable connection other than this one. Cancel-safe.
    pub(crate) async fn other_than(&self, connection: &Connection) {
        connection.left().await;
        self.connection().await;
    }

    /// Whether there is a connection on which kas has accepted the agent.
    pub(crate) fn accepted(&self) -> bool {
        let current = self.0.borrow();
        current.as_ref().is_some_and(Connection::is_accepted)
    }
}

/// Makes connections, one after the other.
#[derive(Debug)]
pub(crate) struct Session {
    dialer: Dialer,
    token: TokenReader,
    current: watch::Sender<Option<Connection>>,
    drivers: TaskTracker,
    metrics: Metrics,
    reconnect: Reconnect,
    complaint: Option<String>,
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

impl Session {
    pub(crate) fn new(dialer: Dialer, token: TokenReader, metrics: Metrics) -> (Self, Uplink) {
        let (current, uplink) = watch::channel(None);
        let session = Self {
            dialer,
            token,
            current,
            drivers: TaskTracker::new(),
            metrics,
            reconnect: Reconnect::new(),
            complaint: None,
        };
        (session, Uplink(uplink))
    }

    /// Keeps a connection until `stop`, then closes it and waits for its end.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let ended = tokio::select! {
                connected = self.connect() => connected,
                () = stop.cancelled() => break,
            };
            let (ended, hint) = match ended {
                Ok(connection) => self.attend(connection, &stop).await,
                Err(error) => {
                    self.metrics.connection_failures.inc();
                    self.complain(&error.to_string());
                    (Ended::Failed, None)
                }
            };
            self.pause(ended, hint, &stop).await;
        }
        drop(self.current);
        self.drivers.close();
        // Nothing is lost if the other end does not close in time.
        let _ = tokio::time::timeout(CLOSE, self.drivers.wait()).await;
    }

    async fn connect(&mut self) -> Result<Connection, ConnectError> {
        self.token.refresh().await;
        let (connection, driver) = self.dialer.dial(self.token.bearer()).await?;
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
        let address = self.dialer.address().clone();
        tracing::debug!(kas_url = %address, "connected");
        self.current.send_replace(Some(connection.clone()));
        let left = self.watch(&connection, stop).await;
        self.current.send_replace(None);
        self.metrics.connected.set(0);
        connection.leave();
        let worked = if connection.is_accepted() {
            Ended::Worked
        } else {
            Ended::Failed
        };
        let ended = match left {
            Left::Ended => {
                if worked == Ended::Failed {
                    self.complain("kas or what stands before it ended the connection before it answered a call");
                } else {
                    tracing::info!(kas_url = %address, "the connection to kas ended; making another");
                }
                worked
            }
            Left::Refused(status) => {
                self.metrics.connection_failures.inc();
                self.complain(&format!(
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
            tokio::select! {
                () = connection.left() => return Left::Ended,
                () = self.token.changed() => return Left::NewToken,
                () = stop.cancelled() => return Left::Stopped,
                Ok(()) = verdicts.changed() => {
                    let verdict = verdicts.borrow_and_update().clone();
                    match verdict {
                        Verdict::None => {}
                        Verdict::Accepted => self.accepted(),
                        Verdict::Refused(status) => return Left::Refused(status),
                    }
                }
            }
        }
    }

    fn accepted(&mut self) {
        self.metrics.connected.set(1);
        self.complaint = None;
        tracing::info!(kas_url = %self.dialer.address(), "connected to kas");
    }

    async fn pause(&mut self, ended: Ended, hint: Option<Duration>, stop: &CancellationToken) {
        let delay = self.reconnect.delay(ended, hint, rand::random());
        tracing::debug!(?delay, "waiting before the next connection");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.token.changed() => {}
            () = stop.cancelled() => {}
        }
    }

    /// Says a thing once, however often it happens.
    fn complain(&mut self, complaint: &str) {
        if self.complaint.as_deref() != Some(complaint) {
            tracing::error!(
                kas_url = %self.dialer.address(),
                error = complaint,
                "no connection to kas; trying again"
            );
            self.complaint = Some(complaint.to_owned());
        }
    }
}
