//! Ports that nobody uses, from below the range that outgoing connections take theirs from.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// One free port of loopback.
#[must_use]
pub fn free() -> u16 {
    free_block(1)
}

/// The first of `count` free ports in a row.
#[must_use]
pub fn free_block(count: u16) -> u16 {
    loop {
        let first = FIRST + (offset() + NEXT.fetch_add(count, Ordering::Relaxed)) % (COUNT - count);
        if (first..first + count).all(is_free) {
            return first;
        }
    }
}

/// Test processes that run at the same time start at different places.
fn offset() -> u16 {
    (std::process::id() % 97) as u16 * 101
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
