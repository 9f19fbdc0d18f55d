//! What the environment says about a run.

use std::time::Duration;

use anyhow::{Context, Result};

/// From here on all faults happen; a shorter run has those that matter most.
const LONG: Duration = Duration::from_secs(5 * 60);

/// How long, how much, and which faults.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How long all faults take together.
    pub(crate) time: Duration,
    /// Requests a second.
    pub(crate) rate: u32,
    /// A part of the name of faults that are wanted; all if empty.
    pub(crate) only: String,
}

impl Settings {
    /// Reads `E2E_MINUTES`, `E2E_RATE` and `E2E_ONLY`.
    pub(crate) fn read() -> Result<Self> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let minutes = variable("E2E_MINUTES").unwrap_or_else(|| "1.5".to_owned());
        let minutes: f64 = minutes.parse().context("E2E_MINUTES must be a number")?;
        let rate = variable("E2E_RATE").unwrap_or_else(|| "60".to_owned());
        let rate = rate.parse().ok().filter(|rate| (1..=10_000).contains(rate));
        Ok(Self {
            time: Duration::try_from_secs_f64(minutes * 60.0)?,
            rate: rate.context("E2E_RATE must be a number from 1 to 10000")?,
            only: variable("E2E_ONLY").unwrap_or_default(),
        })
    }

    /// Whether there is time for everything.
    pub(crate) fn is_long(&self) -> bool {
        self.time >= LONG
    }
}
