//! What an agent does besides carrying calls, if it is told to.

use clap::ValueEnum;

/// Off unless it is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Feature {
    /// Tells kas what happens in the cluster.
    Events,
    /// Has Flux look at repositories as soon as they were pushed to.
    Flux,
    /// Tells kas of objects that somebody watches.
    Graph,
}
