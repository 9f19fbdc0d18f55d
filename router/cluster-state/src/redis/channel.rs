//! Channels by Redis' publish and subscribe.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use fred::{
    clients::Client,
    error::ErrorKind,
    interfaces::{ClientLike as _, EventInterface as _, PubsubInterface as _},
};
use futures_util::FutureExt as _;
use runtime::backoff::Backoff;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{sleep, timeout},
};

use super::{RedisStore, in_time, metrics::StoreMetrics};
use crate::{
    channel::{Channel, ChannelEvent},
    store::{StoreError, StoreFuture},
};

/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// The waits before subscribing again.
const RETRY_BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(200), Duration::from_secs(10), 2.0);

/// A channel. Its name has no key prefix, so that it is the same for all that
/// share the Redis.
#[derive(Debug)]
pub(super) struct RedisChannel {
    client: Client,
    server: String,
    name: &'static str,
    metrics: StoreMetrics,
}

impl RedisChannel {
    pub(super) fn new(store: &RedisStore, name: &'static str) -> Self {
        Self {
            client: store.client.clone(),
            server: store.server.clone(),
            name,
            metrics: store.metrics.clone(),
        }
    }

    async fn run(&self, on_event: &mut (dyn FnMut(ChannelEvent) + Send)) {
        let mut messages = self.client.message_rx();
        let mut connections = self.client.reconnect_rx();
        if self.client.wait_for_connect().await.is_err() || !self.subscribe().await {
            return;
        }
        on_event(ChannelEvent::Gap);
        loop {
            // Biased: what came before a reconnection is older than its gap.
            tokio::select! {
                biased;
                message = messages.recv() => match message {
                    Ok(message) if *message.channel == *self.name => {
                        let content = message.value.into_bytes().unwrap_or_default();
                        on_event(ChannelEvent::Message(content));
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => on_event(ChannelEvent::Gap),
                    Err(RecvError::Closed) => return,
                },
                connection = connections.recv() => {
                    if matches!(connection, Err(RecvError::Closed)) || !self.subscribe().await {
                        return;
                    }
                    on_event(ChannelEvent::Gap);
                }
            }
        }
    }

    /// Subscribes, however long that takes; `false` if the client has ended.
    async fn subscribe(&self) -> bool {
        let (mut backoff, mut reported) = (RETRY_BACKOFF, false);
        loop {
            let error = match timeout(COMMAND_TIMEOUT, self.client.subscribe(self.name)).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) if *error.kind() == ErrorKind::Canceled => return false,
                Ok(Err(error)) => StoreError::failed(&self.server, error),
                Err(_) => StoreError::Timeout(COMMAND_TIMEOUT),
            };
            if !std::mem::replace(&mut reported, true) {
                tracing::warn!(
                    %error,
                    channel = self.name,
                    "cannot subscribe to a Redis channel; its messages are missed until that succeeds"
                );
            }
            sleep(backoff.next(1.0)).await;
        }
    }
}

impl Channel for RedisChannel {
    fn publish(&self, message: Bytes) -> StoreFuture<'_, ()> {
        async move {
            let published = self.client.publish::<(), _, _>(self.name, message);
            let published = in_time(&self.server, COMMAND_TIMEOUT, published).await;
            self.metrics.count("publish", published.is_ok());
            published
        }
        .boxed()
    }

    fn listen<'a>(
        &'a self,
        on_event: &'a mut (dyn FnMut(ChannelEvent) + Send),
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        self.run(on_event).boxed()
    }
}
