//! The bounded history of what changed.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use super::super::failure::Failure;
use super::Key;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Added,
    Modified,
    Deleted,
}

/// One entry of the history.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) verb: Verb,
    pub(crate) key: Key,
    pub(crate) object: Arc<Value>,
    /// The object before; selectors tell by it who saw it come and go.
    pub(crate) previous: Option<Arc<Value>>,
    pub(super) bytes: usize,
}

/// The latest changes; older ones are forgotten.
#[derive(Debug)]
pub(super) struct History {
    changes: VecDeque<Change>,
    bytes: usize,
    max_changes: usize,
    max_bytes: usize,
    revision: u64,
    /// Every change after this revision is still here.
    forgotten: u64,
}

impl History {
    /// An empty history that goes on after `revision`.
    pub(super) fn new(max_changes: usize, max_bytes: usize, revision: u64) -> Self {
        Self {
            changes: VecDeque::new(),
            bytes: 0,
            max_changes,
            max_bytes,
            revision,
            forgotten: revision,
        }
    }

    /// The revision of the latest change.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Adds the latest change and forgets what is too much.
    pub(super) fn record(&mut self, change: Change) {
        self.revision = change.revision;
        self.bytes += change.bytes;
        self.changes.push_back(change);
        while self.changes.len() > self.max_changes || self.bytes > self.max_bytes {
            let Some(oldest) = self.changes.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes;
            self.forgotten = oldest.revision;
        }
    }

    /// The changes after `revision`, oldest first.
    pub(super) fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Change>, Failure> {
        if revision < self.forgotten {
            return Err(Failure::expired(revision, self.forgotten));
        }
        let start = self
            .changes
            .partition_point(|change| change.revision <= revision);
        Ok(self.changes.range(start..))
    }
}
