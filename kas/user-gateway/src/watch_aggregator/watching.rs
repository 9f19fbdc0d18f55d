//! One watch of a WebSocket.

use std::sync::Arc;

use bytes::Bytes;
use control_plane::Identity;
use runtime::shares::Share;
use serde_json::Value;

use super::message::{Wanted, WatchId};
use crate::{caller::Caller, events::Events};

/// A watch in progress. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Watching {
    id: WatchId,
    events: Events,
    _place: Share<Identity>,
}

/// What becomes of a watch.
#[derive(Debug)]
pub(super) enum Next {
    /// An event, in JSON.
    Event(Bytes),
    /// It is over: a Kubernetes `Status`, or a message.
    Ended(Value),
}

impl Watching {
    /// A watch that begins when its first event is asked for. It counts what it holds in `bytes`.
    pub(super) fn new(
        id: WatchId,
        caller: Arc<Caller>,
        wanted: Wanted,
        (place, bytes): (Share<Identity>, Share<Identity>),
    ) -> Self {
        Self {
            id,
            events: Events::new(caller, wanted.into_target(), None, bytes),
            _place: place,
        }
    }

    /// What its client calls it.
    pub(super) fn id(&self) -> &WatchId {
        &self.id
    }

    /// Waits for the next event. The one before must have been written.
    pub(super) async fn next(mut self) -> (Self, Next) {
        let next = match self.events.next().await {
            Ok(event) => Next::Event(event),
            Err(end) => Next::Ended(end),
        };
        (self, next)
    }
}
