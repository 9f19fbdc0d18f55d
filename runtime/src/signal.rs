//! Signals: the first that ends a process drains, a later one forces; a hangup asks to read files again.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

/// How long after the first SIGTERM another one is the same request: process managers and shells send it to a whole
/// group, and to its parent, which passes it on.
const SAME_REQUEST_PERIOD: Duration = Duration::from_secs(2);

/// SIGINT and SIGTERM of this process.
#[derive(Debug)]
pub struct Termination {
    interrupt: Signal,
    terminate: Signal,
    terminated_at: Option<Instant>,
}

impl Termination {
    /// Starts listening; from here on the signals no longer kill the process.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            terminated_at: None,
        })
    }

    /// Waits for the next signal and names it. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => {
                self.terminated_at.get_or_insert_with(Instant::now);
                "SIGTERM"
            }
        }
    }

    /// Waits for a signal that forces an end that has begun: SIGINT, or SIGTERM later than two seconds after the first
    /// SIGTERM. Cancel-safe.
    pub async fn force(&mut self) -> &'static str {
        loop {
            let first = self.terminated_at;
            let signal = self.next().await;
            let repeated = first.is_some_and(|at| at.elapsed() < SAME_REQUEST_PERIOD);
            if signal != "SIGTERM" || !repeated {
                return signal;
            }
            tracing::info!(
                signal,
                "signal ignored: it came within {} s of the first; send it again later to exit immediately",
                SAME_REQUEST_PERIOD.as_secs()
            );
        }
    }
}

/// SIGHUP of this process, which asks to read files again.
#[derive(Debug)]
pub struct Hangup(Signal);

impl Hangup {
    /// Starts listening; from here on the signal no longer kills the process.
    ///
    /// # Errors
    /// When the handler cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the next one; several that came meanwhile are one. Cancel-safe.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
