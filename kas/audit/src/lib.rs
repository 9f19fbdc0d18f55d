//! The audit trail: who did what in which cluster, by which permission, and how it ended.
//!
//! A [`Record`] is one JSON line of a schema with a version. [`Audit`] gives each to all sinks, which have a bounded
//! queue and a task each, so that one that hangs delays no other; each seals what it writes into a [`chain`] of
//! hashes. [`verify`] and [`search`] read what a file sink has written. It knows no agents, tunnels or listeners:
//! whoever has something to record fills in a record.

pub mod attributes;
pub mod chain;
pub mod config;
mod error;
mod handle;
mod metrics;
mod record;
pub mod recording;
pub mod search;
mod sink;
pub mod verify;

pub use attributes::{Attributes, Class};
pub use config::Reads;
pub use error::{NotRecorded, OpenError};
pub use handle::{Audit, Writers};
pub use record::{ActsAs, AgentName, Change, Identity, Kind, Record, SCHEMA, Text, texts};
pub use recording::{Recorded, Recording, RecordingError, Stream};
