//! The replicas of a set as one of them sees them, for people.

use crate::{id::Owner, store::Load};

/// A replica that may live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id, and the URL of its private API.
    pub replica: Owner,
    /// Its version; empty where it is not told.
    pub version: String,
    /// What is known of it.
    pub state: MemberState,
    /// What it carried when it renewed its lease; `None` where that is not told.
    pub load: Option<Load>,
}

/// What is known of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// It takes new work.
    Serving,
    /// It leaves.
    Draining,
    /// It could not be reached lately.
    Unreachable,
    /// Its lease stands still: it does not reach the store, or is dead.
    Silent,
}

/// Whether the store that replicas share answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreHealth {
    /// There is none: all replicas are in this process.
    InMemory,
    /// It does.
    Available,
    /// It did not when it was asked last.
    Unavailable,
}
