//! Whoever can write to the store is no replica yet.
