//! Messages to all replicas.

use std::{fmt::Debug, future::Future, pin::Pin};

use bytes::Bytes;

use crate::store::StoreFuture;

/// A named broadcast channel. Messages are not stored: a replica that is not
/// subscribed at the moment misses them.
pub trait Channel: Debug + Send + Sync + 'static {
    /// Sends a message to all subscribers, this replica included. When it
    /// fails, some may have received it.
    fn publish(&self, message: Bytes) -> StoreFuture<'_, ()>;

    /// Subscribes until the store ends. Reports a [`ChannelEvent::Gap`] first,
    /// and after each time that messages may have been missed.
    fn listen<'a>(
        &'a self,
        on_event: &'a mut (dyn FnMut(ChannelEvent) + Send),
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

/// What a subscriber receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEvent {
    /// A message.
    Message(Bytes),
    /// Messages may have been missed.
    Gap,
}
