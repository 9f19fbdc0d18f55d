//! Ports that nobody uses, from below the range that outgoing connections take theirs from.

/// One free port of loopback.
///
/// # Panics
/// When hardly any is free.
#[must_use]
pub fn free() -> u16 {
    free_block(1)
}

/// The first of `count` free ports in a row.
///
/// # Panics
/// When hardly any is free.
#[must_use]
pub fn free_block(count: u16) -> u16 {
    loadtest::ports::free_block(count).unwrap_or_else(|error| panic!("{error}"))
}
