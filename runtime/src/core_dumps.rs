//! Core dumps, which would hold the secrets of the process that crashed.

use rustix::process::{Resource, Rlimit, setrlimit};

/// No core fits into one byte; and where the kernel pipes cores to a program, which it does whatever the limit is, this
/// one value is taken for "none" (`fs/coredump.c` in Linux), while 0 is not.
const NONE_EVEN_PIPED: u64 = 1;
const NONE: u64 = 0;

/// Turns core dumps off, for this process and all that it starts, for good.
///
/// # Errors
/// When the system refuses.
pub fn turn_off() -> std::io::Result<()> {
    // A hard limit that is 0 already stays there.
    limit(NONE_EVEN_PIPED).or_else(|_| limit(NONE))
}

fn limit(bytes: u64) -> std::io::Result<()> {
    let limit = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    Ok(setrlimit(Resource::Core, limit)?)
}
