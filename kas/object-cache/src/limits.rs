//! What the caches of a process may use.

use std::time::Duration;

/// Bounds for all caches of a process. Bytes are estimates.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all objects.
    pub bytes: usize,
    /// Bytes of the objects of one group of caches.
    pub bytes_per_group: usize,
    /// Of `bytes`, the part that only a group without any objects may use.
    pub bytes_reserved: usize,
    /// Bytes of the objects of one cache: a large one fails before it takes the room of the others.
    pub bytes_per_cache: usize,
    /// Number of caches.
    pub caches: usize,
    /// How long a cache is kept that nobody watches.
    pub idle_ttl: Duration,
}

#[cfg(test)]
impl Limits {
    /// No bounds but those on the bytes of everything and of one group.
    pub(crate) const fn of_bytes(bytes: usize, bytes_per_group: usize) -> Self {
        Self {
            bytes,
            bytes_per_group,
            bytes_reserved: 0,
            bytes_per_cache: bytes,
            caches: 10,
            idle_ttl: Duration::MAX,
        }
    }
}
