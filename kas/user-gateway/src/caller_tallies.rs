//! What callers had in one part of the list of requests, until it is read.

use std::{mem, sync::Arc, time::Duration};

use foldhash::HashMap;

/// Requests, and how long they took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Traffic {
    pub(crate) requests: u64,
    pub(crate) took: Duration,
}

/// What callers had since it was read last, in one part of the list of requests.
#[derive(Debug, Default)]
pub(crate) struct CallerTallies {
    pub(crate) by: HashMap<Arc<str>, Traffic>,
    /// How many of them may be there; 0 counts nothing.
    pub(crate) room: usize,
    pub(crate) rest: Traffic,
}

impl Traffic {
    /// Adds what was counted elsewhere.
    pub(crate) fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.took = self.took.saturating_add(other.took);
    }
}

impl CallerTallies {
    /// A request of a caller has ended.
    pub(crate) fn add(&mut self, caller: &Arc<str>, took: Duration) {
        if self.room == 0 {
            return;
        }
        let one = Traffic { requests: 1, took };
        if let Some(traffic) = self.by.get_mut(caller) {
            traffic.add(one);
        } else if self.by.len() < self.room {
            self.by.insert(caller.clone(), one);
        } else {
            self.rest.add(one);
        }
    }

    /// What was counted, from which on it is counted in `fresh`.
    pub(crate) fn replace(&mut self, fresh: Self) -> Self {
        mem::replace(self, fresh)
    }
}
