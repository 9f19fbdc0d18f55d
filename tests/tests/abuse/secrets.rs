//! Secrets that are too short, and tokens that are used twice.
