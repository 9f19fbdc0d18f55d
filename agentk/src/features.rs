//! Features of an agent that are off by default.

use clap::ValueEnum;

/// A feature that is off by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Feature {
    /// Report the cluster's events to kas
    Events,
    /// Notify Flux of pushes to its repositories
    Flux,
    /// Let programs watch the cluster's objects through kas
    Graph,
}
