//! File descriptors: as many as this process may have, with some reserved for probes and its own work.

use std::{
    os::fd::AsRawFd,
    sync::atomic::{AtomicI32, Ordering},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that no accepted connection takes, but for those of probes: what is left for these,
/// for files, and for what the process dials itself.
const RESERVED_DESCRIPTORS: u64 = 64;
/// A replica takes one for each agent and each connection of users; below this many it is warned.
const RECOMMENDED_DESCRIPTORS: u64 = 65_536;

/// From this descriptor on, connections are not kept.
static CEILING: AtomicI32 = AtomicI32::new(i32::MAX);

/// Raises the soft limit of open files to the hard one, keeps some of them back, and warns in the log
/// if there are few.
pub fn raise_limit() {
    let before = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    let limit = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => before.maximum,
        Err(error) => {
            tracing::warn!(%error, soft = before.current, hard = before.maximum, "cannot raise the limit of open files");
            before.current
        }
    };
    // None is without limit.
    let limit = limit.unwrap_or(u64::MAX);
    CEILING.store(ceiling(limit), Ordering::Relaxed);
    if limit < RECOMMENDED_DESCRIPTORS {
        tracing::warn!(
            limit,
            recommended = RECOMMENDED_DESCRIPTORS,
            reserved_for_probes = limit - u64::from(ceiling(limit).unsigned_abs()),
            "limit of open files is low: each agent and each client connection takes one; raise it (ulimit -n, LimitNOFILE)"
        );
    }
}

/// How many of the files that this process may open now are for connections.
#[must_use]
pub fn for_connections() -> u32 {
    // None is without limit.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ceiling(limit).unsigned_abs()
}

/// Whether a connection that was just accepted took one of the descriptors that are kept back. The
/// system gives the lowest one that is free, so all below are in use.
pub(crate) fn is_reserved(socket: &impl AsRawFd) -> bool {
    socket.as_raw_fd() >= CEILING.load(Ordering::Relaxed)
}

fn ceiling(limit: u64) -> i32 {
    let kept = RESERVED_DESCRIPTORS.min(limit / 4);
    i32::try_from(limit - kept).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_back_from_any_limit() {
        assert_eq!(ceiling(400), 336);
        assert_eq!(ceiling(100), 75);
        assert_eq!(ceiling(0), 0);
        assert_eq!(ceiling(u64::MAX), i32::MAX);
    }
}
