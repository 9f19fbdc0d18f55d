//! Changes on their way to those who watch. Pure.
//!
//! Whoever watches is told first what there is, then what changes. Objects are copied only into the message
//! that is told next; a change is kept until all have heard it, or until too many wait for somebody.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use proto::graph::rpc::{Object, Update};

use super::{budget::Kept, mirror::Change};

/// Changes that wait for one who watches; whoever falls behind further is cut off.
pub(super) const QUEUE: usize = 1024;
/// The same in bytes, of objects and of names of those that are gone.
pub(super) const QUEUE_BYTES: usize = 8 << 20;
/// Bytes of objects in one message, unless one object has more.
const MESSAGE_BYTES: usize = 128 << 10;
/// What the name of an object that is gone costs besides its text.
const NAME_BYTES: usize = 32;

/// Those who watch, and what they have not heard.
#[derive(Debug, Default)]
pub(super) struct Told {
    changes: VecDeque<Waiting>,
    /// The number of the first change that waits.
    first: u64,
    bytes: usize,
    watchers: BTreeMap<u64, Watcher>,
    last_watcher: u64,
}

#[derive(Debug)]
struct Waiting {
    change: Arc<Change>,
    bytes: usize,
    /// Who has not heard it.
    left: usize,
}

#[derive(Debug)]
struct Watcher {
    messages: Messages,
    /// The number of the change that comes next.
    next: u64,
    /// Whether something that it should hear is gone.
    missed: bool,
}

/// What there is for one who watches.
#[derive(Debug)]
pub(super) enum Next {
    /// A message.
    Update(Update),
    /// Nothing yet.
    Nothing,
    /// Something is gone that it should have heard.
    Missed,
}

impl Told {
    /// Lets somebody watch, who is told `first` what there is. Gives its number.
    pub(super) fn join(&mut self, first: Change) -> u64 {
        self.last_watcher += 1;
        let watcher = Watcher {
            messages: Messages::of(first),
            next: self.end(),
            missed: false,
        };
        self.watchers.insert(self.last_watcher, watcher);
        self.last_watcher
    }

    /// Somebody does not watch any more.
    pub(super) fn leave(&mut self, watcher: u64) {
        if let Some(watcher) = self.watchers.remove(&watcher) {
            let heard = watcher.next.saturating_sub(self.first);
            let heard = usize::try_from(heard).unwrap_or(usize::MAX);
            for waiting in self.changes.iter_mut().skip(heard) {
                waiting.left -= 1;
            }
            self.forget_heard();
        }
    }

    /// Tells all who watch.
    pub(super) fn tell(&mut self, change: Change) {
        if self.watchers.is_empty() {
            return;
        }
        let objects: usize = change.changed.iter().map(Kept::bytes).sum();
        let names: usize = change.removed.iter().map(|it| NAME_BYTES + it.len()).sum();
        self.bytes += objects + names;
        self.changes.push_back(Waiting {
            change: Arc::new(change),
            bytes: objects + names,
            left: self.watchers.len(),
        });
        while self.changes.len() > QUEUE || self.changes.len() > 1 && self.bytes > QUEUE_BYTES {
            self.forget_first();
        }
    }

    /// The next message for somebody.
    pub(super) fn next(&mut self, watcher: u64) -> Next {
        let first = self.first;
        let Some(watcher) = self.watchers.get_mut(&watcher) else {
            return Next::Missed;
        };
        if let Some(update) = watcher.messages.pop() {
            return Next::Update(update);
        }
        let Some(place) = watcher.next.checked_sub(first).filter(|_| !watcher.missed) else {
            return Next::Missed;
        };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let Some(waiting) = self.changes.get_mut(place) else {
            return Next::Nothing;
        };
        watcher.next += 1;
        waiting.left -= 1;
        watcher.messages = Messages::of((*waiting.change).clone());
        let update = watcher.messages.pop();
        self.forget_heard();
        update.map_or(Next::Nothing, Next::Update)
    }

    /// Lets go of all that is there only for those who are slow to hear it; says whether there was anything.
    pub(super) fn relieve(&mut self) -> bool {
        let end = self.end();
        let mut freed = !self.changes.is_empty();
        for watcher in self.watchers.values_mut() {
            freed |= !watcher.messages.is_empty();
            watcher.missed |= !watcher.messages.is_empty() || watcher.next < end;
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

    fn forget_heard(&mut self) {
        while self.changes.front().is_some_and(|it| it.left == 0) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(waiting) = self.changes.pop_front() {
            self.bytes -= waiting.bytes;
            self.first += 1;
        }
    }
}

/// A change, as it is told message by message.
#[derive(Debug, Default)]
struct Messages {
    removed: VecDeque<String>,
    changed: VecDeque<Kept>,
    /// Told with the last message; none is left then.
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
            && fits(NAME_BYTES + uid.len())
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
