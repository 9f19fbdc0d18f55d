//! In-memory caches of Kubernetes objects, one for each watched resource, and the watches on them.
//!
//! The agent fills its caches from the Kubernetes API, kas from the agent; watchers see the same behaviour
//! in both. This crate knows neither of the two, no tunnels and no callers.

mod backlog;
mod budget;
mod cache;
mod caches;
mod limits;
mod snapshot;

pub use cache::{Interruptions, ObjectCache, StagedList, Watch};
pub use caches::ObjectCaches;
pub use limits::Limits;
