//! Logs of the binary: JSON lines on stderr, at a level that can change.

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, reload, util::SubscriberInitExt};

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

impl LogLevel {
    fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Starts logging at `info` and returns a function that changes the level. If the environment
/// variable `RUST_LOG` is set, the level stays what it says.
pub fn start() -> impl Fn(LogLevel) + Send + Sync + 'static {
    let fixed = EnvFilter::try_from_default_env().ok();
    let changeable = fixed.is_none();
    let (layer, handle) = reload::Layer::new(fixed.unwrap_or_else(|| filter(LogLevel::Info)));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .json()
        .flatten_event(true)
        .with_current_span(false);
    // A second start keeps the first logger.
    let _ = tracing_subscriber::registry()
        .with(layer)
        .with(lines)
        .try_init();
    move |level| {
        if changeable {
            // Fails only when the logger is gone.
            let _ = handle.reload(filter(level));
        }
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    let level = level.as_str();
    EnvFilter::new(format!(
        "{level},h2=error,hyper=error,hyper_util=error,tower=error,kube=error"
    ))
}
