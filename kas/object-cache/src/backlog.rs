//! Changes that watchers have not received yet. Pure.
//!
//! A watcher first receives the objects that there are, then each change. Objects are copied only
//! into the message that is sent next; a change is kept until every watcher has received it, or
//! until the backlog is too long for the slowest of them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use proto::graph::rpc::{Object, Update};

use crate::{budget::CachedObject, snapshot::Change};

/// Changes that a watcher may lag behind; one that lags further is cut off.
pub(crate) const BACKLOG_CHANGES: usize = 1024;
/// The same in bytes of changed objects and uids of removed ones.
pub(crate) const BACKLOG_BYTES: usize = 8 << 20;
/// Bytes of objects in one message; a single object may be larger.
const MESSAGE_BYTES: usize = 128 << 10;
/// Size of the uid of a removed object without its text.
const UID_BYTES: usize = 32;

/// The watchers of a cache, and the changes that some of them have not received.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    changes: VecDeque<Pending>,
    /// The number of the first change in the queue.
    first: u64,
    bytes: usize,
    watchers: BTreeMap<u64, Watcher>,
    last_watcher: u64,
}

#[derive(Debug)]
struct Pending {
    change: Arc<Change>,
    bytes: usize,
    /// How many watchers have not received it.
    receivers_left: usize,
}

#[derive(Debug)]
struct Watcher {
    /// What is left of the change that is being received.
    messages: Messages,
    /// The number of the change behind that.
    next: u64,
    /// Whether a change was discarded that it has not received.
    lagged: bool,
}

/// What a watcher receives next.
#[derive(Debug)]
pub(crate) enum Next {
    /// A message.
    Update(Update),
    /// Nothing yet.
    Empty,
    /// A change that it needs was discarded.
    Lagged,
}

impl Backlog {
    /// Adds a watcher that receives `first` before all changes; returns its number.
    pub(crate) fn join(&mut self, first: Change) -> u64 {
        self.last_watcher += 1;
        let watcher = Watcher {
            messages: Messages::of(first),
            next: self.end(),
            lagged: false,
        };
        self.watchers.insert(self.last_watcher, watcher);
        self.last_watcher
    }

    /// Removes a watcher.
    pub(crate) fn leave(&mut self, watcher: u64) {
        if let Some(watcher) = self.watchers.remove(&watcher) {
            let received = watcher.next.saturating_sub(self.first);
            let received = usize::try_from(received).unwrap_or(usize::MAX);
            for pending in self.changes.iter_mut().skip(received) {
                pending.receivers_left -= 1;
            }
            self.drop_received();
        }
    }

    /// Queues a change for all watchers.
    pub(crate) fn publish(&mut self, change: Change) {
        if self.watchers.is_empty() {
            return;
        }
        let objects: usize = change.changed.iter().map(CachedObject::bytes).sum();
        let uids: usize = change.removed.iter().map(|it| UID_BYTES + it.len()).sum();
        self.bytes += objects + uids;
        self.changes.push_back(Pending {
            change: Arc::new(change),
            bytes: objects + uids,
            receivers_left: self.watchers.len(),
        });
        while self.changes.len() > BACKLOG_CHANGES
            || self.changes.len() > 1 && self.bytes > BACKLOG_BYTES
        {
            self.drop_first();
        }
    }

    /// The next message for a watcher.
    pub(crate) fn next(&mut self, watcher: u64) -> Next {
        let first = self.first;
        let Some(watcher) = self.watchers.get_mut(&watcher) else {
            return Next::Lagged;
        };
        if let Some(update) = watcher.messages.pop() {
            return Next::Update(update);
        }
        let Some(place) = watcher.next.checked_sub(first).filter(|_| !watcher.lagged) else {
            return Next::Lagged;
        };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let Some(pending) = self.changes.get_mut(place) else {
            return Next::Empty;
        };
        watcher.next += 1;
        pending.receivers_left -= 1;
        watcher.messages = Messages::of((*pending.change).clone());
        let update = watcher.messages.pop();
        self.drop_received();
        update.map_or(Next::Empty, Next::Update)
    }

    /// Discards everything that waits for slow watchers; returns whether there was anything.
    pub(crate) fn discard(&mut self) -> bool {
        let end = self.end();
        let mut freed = !self.changes.is_empty();
        for watcher in self.watchers.values_mut() {
            freed |= !watcher.messages.is_empty();
            watcher.lagged |= !watcher.messages.is_empty() || watcher.next < end;
            watcher.messages = Messages::default();
        }
        self.changes.clear();
        self.first = end;
        self.bytes = 0;
        freed
    }

    fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    fn drop_received(&mut self) {
        while self
            .changes
            .front()
            .is_some_and(|it| it.receivers_left == 0)
        {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(pending) = self.changes.pop_front() {
            self.bytes -= pending.bytes;
            self.first += 1;
        }
    }
}

/// A change, cut into messages.
#[derive(Debug, Default)]
struct Messages {
    removed: VecDeque<String>,
    changed: VecDeque<CachedObject>,
    /// Sent with the last message; `None` once that has been taken.
    version: Option<String>,
}

impl Messages {
    fn of(change: Change) -> Self {
        Self {
            removed: change.removed.into(),
            changed: change.changed.into(),
            version: Some(change.version),
        }
    }

    fn is_empty(&self) -> bool {
        self.version.is_none()
    }

    fn pop(&mut self) -> Option<Update> {
        self.version.as_ref()?;
        let (mut update, mut bytes) = (Update::default(), 0);
        let mut fits = |size: usize| {
            let fits = bytes == 0 || bytes + size <= MESSAGE_BYTES;
            bytes += size;
            fits
        };
        while let Some(uid) = self.removed.front()
            && fits(UID_BYTES + uid.len())
        {
            update.removed.extend(self.removed.pop_front());
        }
        while self.removed.is_empty()
            && let Some(object) = self.changed.front()
            && fits(object.bytes())
        {
            update.changed.push(Object::clone(object));
            self.changed.pop_front();
        }
        if self.removed.is_empty() && self.changed.is_empty() {
            update.synced = true;
            update.version = self.version.take().unwrap_or_default();
        }
        Some(update)
    }
}
