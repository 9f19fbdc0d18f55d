//! Logs of the binary: JSON lines on stderr, at a level that can change.

use runtime::telemetry;

/// The levels that an agent's configuration may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// State changes.
    Info,
    /// Somebody should look.
    Warn,
    /// Something does not work.
    Error,
}

impl From<LogLevel> for telemetry::LogLevel {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Debug => Self::Debug,
            LogLevel::Info => Self::Info,
            LogLevel::Warn => Self::Warn,
            LogLevel::Error => Self::Error,
        }
    }
}

/// Starts logging at `info` and returns a function that changes the level. If the environment
/// variable `RUST_LOG` is set, the level stays what it says.
pub fn start() -> impl Fn(LogLevel) + Send + Sync + 'static {
    telemetry::start(telemetry::LogLevel::Info, telemetry::Format::Json);
    |level| {
        // Fails only where RUST_LOG decides, whose operator knows why.
        let _ = telemetry::set_level(level.into());
    }
}
