//! Ports for programs that are started and restarted.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use anyhow::bail;

/// Below the ports that the system gives to outgoing connections: nobody takes
/// one while its program is away.
const FIRST_PORT: u16 = 20_000;
const PORT_COUNT: u16 = 12_000;
const MAX_ATTEMPTS: usize = 1000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Ports of loopback that were free a moment ago.
///
/// # Errors
/// When hardly any is free.
pub(crate) fn free<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut held: Vec<(u16, TcpListener)> = Vec::new();
    for _ in 0..MAX_ATTEMPTS {
        let port = FIRST_PORT + (offset() + NEXT.fetch_add(1, Relaxed) % PORT_COUNT) % PORT_COUNT;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
        if held.len() == N {
            let mut ports = [0; N];
            for (place, (port, _)) in ports.iter_mut().zip(&held) {
                *place = *port;
            }
            return Ok(ports);
        }
    }
    bail!("no {N} ports of loopback from {FIRST_PORT} on are free")
}

/// Processes that run at the same time begin at different places, so that none takes
/// what another has found free and not yet bound.
fn offset() -> u16 {
    (std::process::id() % 97) as u16 * 101
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
}
