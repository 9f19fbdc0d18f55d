//! Logs: one JSON object a line on stderr, or text.

mod causes;
mod filter;
mod gitlab_lines;
mod level;
mod own_line;
mod repeats;
mod span_fields;
mod untrusted;

use tracing::Subscriber;
use tracing_subscriber::{
    fmt, layer::SubscriberExt, registry::LookupSpan, util::SubscriberInitExt,
};

pub use causes::Causes;
pub use filter::{LevelIsFixed, current_level, set_level};
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

/// Starts logging to stderr at `level`, which [`set_level`] changes; the environment variable `RUST_LOG` wins if set.
/// Calling twice has no effect.
pub fn start(level: LogLevel, format: Format) {
    let registry = tracing_subscriber::registry();
    let started = match filter::of_environment() {
        Some(filter) => write_lines(registry.with(filter), format),
        None => write_lines(registry.with(filter::ChangeableLevel::new()), format),
    };
    if started && filter::of_environment().is_none() {
        filter::begin_with(level);
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Whether this is the process's logger now. A second start keeps the first one, which is what tests in one process
/// need.
fn write_lines<S>(filtered: S, format: Format) -> bool
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync + 'static,
{
    let started = match format {
        Format::Json => filtered
            .with(
                fmt::layer()
                    .with_writer(std::io::stderr)
                    .json()
                    .flatten_event(true)
                    .with_current_span(false)
                    .fmt_fields(span_fields::SpanFields),
            )
            .try_init(),
        Format::GitLab => filtered
            .with(gitlab_layer().with_writer(std::io::stderr))
            .try_init(),
        Format::Text => filtered
            .with(
                fmt::layer()
                    .with_writer(own_line::OwnLine::stderr())
                    .with_target(false)
                    .without_time(),
            )
            .try_init(),
    };
    started.is_ok()
}

fn gitlab_layer<S>() -> fmt::Layer<S, span_fields::SpanFields, gitlab_lines::GitLabLines>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fmt::layer()
        .fmt_fields(span_fields::SpanFields)
        .event_format(gitlab_lines::GitLabLines)
}
