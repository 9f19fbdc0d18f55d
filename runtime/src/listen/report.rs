//! Connections that came to nothing, in the log.

use std::fmt::Display;

use super::AcceptError;
use crate::telemetry::{Repeats, Untrusted};

impl AcceptError {
    /// Says in the log that a connection to `port` came to nothing, whose peer is at `remote_addr`.
    /// Whoever knocks a thousand times is summed up.
    pub fn report(&self, port: &'static str, remote_addr: &dyn Display) {
        static REFUSED: Repeats = Repeats::new("a connection was refused");
        // What a client offers may be in it.
        let error = self.to_string();
        let error = Untrusted(&error);
        if self.is_harmless() {
            tracing::debug!(port, %remote_addr, %error, "a connection came to nothing");
        } else if REFUSED.admit() {
            tracing::info!(port, %remote_addr, %error, "a connection was refused");
        }
    }
}
