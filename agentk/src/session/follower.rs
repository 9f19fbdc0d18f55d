//! Calls kas again and again, on one connection after the other.

use std::time::Duration;

use runtime::grpc::Channel;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Connection, Uplink};
use crate::{backoff::StreamBackoff, last_failure::LastFailure};

/// How long a connection is not asked again whose kas does not implement the method.
const UNIMPLEMENTED_RETRY_INTERVAL: Duration = Duration::from_secs(300);

/// Follows something at kas: waits for a connection, judges the outcome of each call, logs a
/// failure that repeats once, and waits before the next call.
#[derive(Debug)]
pub(crate) struct Follower {
    uplink: Uplink,
    backoff: StreamBackoff,
    failure: LastFailure,
    /// The log line for a call that failed.
    failed: &'static str,
}

/// One call.
#[derive(Debug)]
pub(crate) struct Attempt {
    connection: Connection,
    started: Instant,
}

impl Attempt {
    /// For tonic's clients.
    pub(crate) fn channel(&self) -> Channel {
        self.connection.channel()
    }
}

impl Follower {
    /// Waits between failures at least `min` and at most `max`.
    pub(crate) fn new(uplink: Uplink, min: Duration, max: Duration, failed: &'static str) -> Self {
        Self {
            uplink,
            backoff: StreamBackoff::new(min, max),
            failure: LastFailure::default(),
            failed,
        }
    }

    /// Waits for a connection that can be used. Cancel-safe.
    pub(crate) async fn attempt(&self) -> Attempt {
        Attempt {
            connection: self.uplink.connection().await,
            started: Instant::now(),
        }
    }

    /// Notes that kas has answered; of a stream, that a message came.
    pub(crate) fn succeeded(&mut self, attempt: &Attempt) {
        attempt.connection.mark_accepted();
        self.failure.clear();
    }

    /// After a call that kas answered: waits `interval`, less if the connection is left.
    pub(crate) async fn answered(&mut self, attempt: Attempt, interval: Duration) {
        self.succeeded(&attempt);
        self.backoff.reset();
        pause(&attempt.connection, interval).await;
    }

    /// After a stream that ended: waits, less if the connection is left.
    pub(crate) async fn ended(&mut self, attempt: Attempt, end: Result<(), Status>) {
        match end {
            Ok(()) => {
                let lifetime = attempt.started.elapsed();
                let delay = self.backoff.after_end(lifetime, rand::random());
                pause(&attempt.connection, delay).await;
            }
            Err(status) => self.failed(attempt, &status).await,
        }
    }

    /// After a call that failed: waits, less if the connection is left.
    pub(crate) async fn failed(&mut self, attempt: Attempt, status: &Status) {
        let connection = attempt.connection;
        // What fails because its connection ends says nothing about kas.
        if connection.is_ending().await {
            return;
        }
        connection.note_failure(status);
        let error = format!("{:?}: {}", status.code(), status.message());
        if self.failure.is_new(&error) {
            tracing::warn!(error, "{}", self.failed);
        }
        let delay = if status.code() == Code::Unimplemented {
            UNIMPLEMENTED_RETRY_INTERVAL
        } else {
            self.backoff.after_refusal(rand::random())
        };
        pause(&connection, delay).await;
    }

    /// Waits as long as there is no use in asking a kas that does not implement the method.
    pub(crate) async fn unimplemented(&mut self, attempt: Attempt) {
        pause(&attempt.connection, UNIMPLEMENTED_RETRY_INTERVAL).await;
    }
}

async fn pause(connection: &Connection, delay: Duration) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = connection.draining() => {}
    }
}
