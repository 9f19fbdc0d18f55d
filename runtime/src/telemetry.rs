//! Logs: one JSON object a line on stderr, or text.

mod causes;
mod gitlab_lines;
mod level;
mod repeats;
mod untrusted;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub use causes::Causes;
pub use level::LogLevel;
pub use repeats::Repeats;
pub use untrusted::Untrusted;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON, for machines.
    Json,
    /// The same with the keys of GitLab's kas.
    GitLab,
    /// Text, for a person at a terminal.
    Text,
}

/// Starts logging to stderr at `level`; the environment variable `RUST_LOG`
/// wins if set. Calling twice has no effect.
pub fn start(level: LevelFilter, format: Format) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},h2=error,hyper=error,tower=error")));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    // A second start keeps the first logger, which is what tests in one process need.
    let _ = match format {
        Format::Json => registry
            .with(layer.json().flatten_event(true).with_current_span(false))
            .try_init(),
        Format::GitLab => registry
            .with(gitlab_layer().with_writer(std::io::stderr))
            .try_init(),
        Format::Text => registry
            .with(layer.with_target(false).without_time())
            .try_init(),
    };
}

fn gitlab_layer<S>() -> fmt::Layer<S, fmt::format::JsonFields, gitlab_lines::GitLabLines>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fmt::layer()
        .fmt_fields(fmt::format::JsonFields::new())
        .event_format(gitlab_lines::GitLabLines)
}
