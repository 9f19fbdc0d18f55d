//! Ports for programs that are started and restarted.

use std::{
    fs::{File, TryLockError},
    io,
    net::TcpListener,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

use anyhow::bail;

/// Below the ports that the system gives to outgoing connections: nobody takes
/// one while its program is away.
const FIRST_PORT: u16 = 20_000;
const PORT_COUNT: u16 = 12_000;
const MAX_ATTEMPTS: usize = 1000;
/// Of temporary files: has a file for each port that somebody has taken.
const FOLDER: &str = "kas-ports";

static NEXT: AtomicU16 = AtomicU16::new(0);
/// The locks of what was taken, until the process ends.
static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Ports of loopback that are free, and that nobody else gets from here as long as this process runs: between a look
/// whether a port is free and the start of the program that is to have it, another process may look too.
///
/// # Errors
/// When hardly any is free.
pub fn free<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut ports = [0; N];
    for port in &mut ports {
        *port = free_block(1)?;
    }
    Ok(ports)
}

/// The first of `count` such ports in a row.
///
/// # Errors
/// When hardly any is free.
pub fn free_block(count: u16) -> anyhow::Result<u16> {
    for _ in 0..MAX_ATTEMPTS {
        let first = FIRST_PORT
            + (offset() + NEXT.fetch_add(count, Relaxed) % PORT_COUNT) % (PORT_COUNT - count);
        let locks: Option<Vec<_>> = (first..first + count).map(take).collect();
        if let Some(locks) = locks {
            let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
            taken.extend(locks.into_iter().flatten());
            return Ok(first);
        }
    }
    bail!("no {count} ports of loopback from {FIRST_PORT} on are free")
}

/// Processes that run at the same time begin at different places, so that they seldom meet.
fn offset() -> u16 {
    (std::process::id() % 97) as u16 * 101
}

/// Takes a port: its lock, where there can be one. `None` where somebody else has it.
fn take(port: u16) -> Option<Option<File>> {
    let lock = match lock(port) {
        Err(TryLockError::WouldBlock) => return None,
        lock => lock.ok(),
    };
    let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok();
    is_free.then_some(lock)
}

fn lock(port: u16) -> Result<File, TryLockError> {
    let folder = std::env::temp_dir().join(FOLDER);
    let made = std::fs::create_dir_all(&folder);
    let path = folder.join(port.to_string());
    let open = || File::options().create(true).append(true).open(path);
    let file: io::Result<File> = made.and_then(|()| open());
    let file = file.map_err(TryLockError::Error)?;
    file.try_lock()?;
    Ok(file)
}

/// `127.0.0.1:port`.
pub(crate) fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let [a, b, c] = free().unwrap();

        assert!(a != b && b != c && a != c);
        assert!(TcpListener::bind(("127.0.0.1", a)).is_ok());
    }

    #[test]
    fn a_port_that_was_given_away_is_given_to_nobody_else() {
        let [port] = free().unwrap();

        assert!(take(port).is_none());
    }
}
