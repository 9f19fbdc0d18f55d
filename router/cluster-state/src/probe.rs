//! The health probe of another replica, which does not go through the store.

use std::fmt::Debug;

use crate::{id::Owner, table::TableFuture};

/// Probes replicas directly, so that one that only lost the store is not taken
/// for dead.
pub trait PeerProbe: Debug + Send + Sync + 'static {
    /// Probes the replica at its URL. The caller bounds the wait.
    fn probe<'a>(&'a self, replica: &'a Owner) -> TableFuture<'a, Liveness>;
}

/// The outcome of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Exactly this replica answered.
    Alive,
    /// Nothing listens at its URL, or another replica answered: it has ended.
    Gone,
    /// No answer that proves either.
    Unknown,
}
