//! Implementations of the routing table.

pub mod memory;
