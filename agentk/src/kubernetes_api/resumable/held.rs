//! What all resumable connections hold of bytes that kas has not acknowledged, and has sent and the API server not taken.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that all hold before none may hold more than [`SHARE_BYTES`].
const MAX_HELD_BYTES: usize = 32 << 20;
const SHARE_BYTES: usize = 32 << 10;

/// A sum of bytes. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<AtomicUsize>);

impl Held {
    /// Whether a connection that holds so much for kas may hold more.
    pub(super) fn may_grow(&self, bytes: usize) -> bool {
        bytes < SHARE_BYTES || self.0.load(Ordering::Relaxed) < MAX_HELD_BYTES
    }

    /// A connection holds so many bytes now.
    pub(super) fn count(&self, before: usize, now: usize) {
        self.0.fetch_add(now, Ordering::Relaxed);
        self.0.fetch_sub(before, Ordering::Relaxed);
    }
}
