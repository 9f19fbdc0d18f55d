//! Connections that failed during their handshakes, in the log.

use std::fmt::Display;

use super::AcceptError;
use crate::telemetry::{Repeats, Untrusted};

impl AcceptError {
    /// Logs that a connection to `port` from `remote_addr` failed during its handshakes. Lines beyond a limit are
    /// summed up.
    pub fn report(&self, port: &'static str, remote_addr: &dyn Display) {
        static REFUSED: Repeats = Repeats::new("connection refused during its handshake");
        // What a client offers may be in it.
        let error = self.to_string();
        let error = Untrusted(&error);
        if self.is_harmless() {
            tracing::debug!(port, %remote_addr, %error, "connection closed before its handshake");
        } else if REFUSED.admit() {
            tracing::info!(port, %remote_addr, %error, "connection refused during its handshake");
        }
    }
}
