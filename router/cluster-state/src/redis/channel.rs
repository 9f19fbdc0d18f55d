//! Messages to all replicas, by Redis' publish and subscribe.
//!
//! Nothing is kept: who does not listen just then misses a message.

use std::time::Duration;

use bytes::Bytes;
use fred::{
    clients::Client,
    error::ErrorKind,
    interfaces::{ClientLike as _, EventInterface as _, PubsubInterface as _},
};
use tokio::{
    sync::broadcast::error::RecvError,
    time::{sleep, timeout},
};

use super::{RedisStore, metrics::StoreMetrics};
use crate::store::StoreError;

/// How long an operation may take.
const OPERATION: Duration = Duration::from_secs(5);
/// The waits before a subscription is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A named channel; its name has no prefix, so that it is the same for all who
/// share the Redis. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Channel {
    client: Client,
    server: String,
    name: &'static str,
    metrics: StoreMetrics,
}

/// What is heard on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message(Bytes),
    /// Messages may have been missed.
    Gap,
}

impl RedisStore {
    /// A channel that lives as long as the store.
    #[must_use]
    pub fn channel(&self, name: &'static str) -> Channel {
        Channel {
            client: self.client.clone(),
            server: self.server.clone(),
            name,
            metrics: self.metrics.clone(),
        }
    }
}

impl Channel {
    /// Tells all who listen, this replica included.
    ///
    /// # Errors
    /// When the store does not take the message in time; some may have got it.
    pub async fn publish(&self, message: Bytes) -> Result<(), StoreError> {
        let published = self.client.publish::<(), _, _>(self.name, message);
        let published = timeout(OPERATION, published).await;
        self.metrics
            .count("publish", matches!(published, Ok(Ok(()))));
        match published {
            Ok(published) => published.map_err(|error| self.error(&error)),
            Err(_) => Err(self.error(&"it did not answer in time")),
        }
    }

    /// Listens until the store ends. After each time that messages could have
    /// been missed, and at the beginning, says so.
    pub async fn listen(&self, mut heard: impl FnMut(Heard)) {
        let mut messages = self.client.message_rx();
        let mut connections = self.client.reconnect_rx();
        if self.client.wait_for_connect().await.is_err() || !self.subscribe().await {
            return;
        }
        heard(Heard::Gap);
        loop {
            tokio::select! {
                biased;
                message = messages.recv() => match message {
                    Ok(message) if *message.channel == *self.name => {
                        heard(Heard::Message(message.value.into_bytes().unwrap_or_default()));
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => heard(Heard::Gap),
                    Err(RecvError::Closed) => return,
                },
                connection = connections.recv() => {
                    if matches!(connection, Err(RecvError::Closed)) || !self.subscribe().await {
                        return;
                    }
                    heard(Heard::Gap);
                }
            }
        }
    }

    /// Says whether there is still a client to do it.
    async fn subscribe(&self) -> bool {
        let mut pause = RETRY.0;
        loop {
            let error = match timeout(OPERATION, self.client.subscribe(self.name)).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) if *error.kind() == ErrorKind::Canceled => return false,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it did not answer in time".to_owned(),
            };
            if pause == RETRY.0 {
                tracing::warn!(
                    error,
                    channel = self.name,
                    server = self.server,
                    "cannot listen on a channel of Redis; what is told there is not heard meanwhile"
                );
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    fn error(&self, error: &dyn std::fmt::Display) -> StoreError {
        StoreError(format!("{}: {error}", self.server))
    }
}
