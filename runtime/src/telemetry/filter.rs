//! Which lines are written: those of a level that can change while the process runs.

use std::{
    marker::PhantomData,
    sync::atomic::{AtomicU8, Ordering},
};

use tracing::{Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    EnvFilter, Layer,
    layer::{Context, Filter},
};

use super::LogLevel;

/// Third-party crates whose lines below an error are noise, by the beginning of their names.
const NOISY: [&str; 5] = ["fred", "h2", "hyper", "tower", "kube"];
/// The level while `RUST_LOG` decides, or before logging starts.
const FIXED: u8 = 0;

/// One logger a process, and so one level.
static LEVEL: AtomicU8 = AtomicU8::new(FIXED);

/// The level cannot be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log level is fixed by the environment variable RUST_LOG of this process")]
pub struct LevelIsFixed;

/// Changes how much this process logs, from now on.
///
/// # Errors
/// When `RUST_LOG` decides what is logged, or logging was never started.
pub fn set_level(level: LogLevel) -> Result<(), LevelIsFixed> {
    let changed = LEVEL.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
        (now != FIXED).then_some(code(level))
    });
    changed.map_err(|_| LevelIsFixed)?;
    // Whether a line is written was remembered for each place in the code.
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

/// How much this process logs; `None` if `RUST_LOG` decides, or logging was never started.
#[must_use]
pub fn current_level() -> Option<LogLevel> {
    match LEVEL.load(Ordering::Relaxed) {
        1 => Some(LogLevel::Error),
        2 => Some(LogLevel::Warn),
        3 => Some(LogLevel::Info),
        4 => Some(LogLevel::Debug),
        _ => None,
    }
}

/// What starts with this level is filtered by it.
pub(super) fn begin_with(level: LogLevel) {
    LEVEL.store(code(level), Ordering::Relaxed);
}

fn code(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error => 1,
        LogLevel::Warn => 2,
        LogLevel::Info => 3,
        LogLevel::Debug => 4,
    }
}

fn limit() -> LevelFilter {
    match current_level() {
        Some(LogLevel::Error) | None => LevelFilter::ERROR,
        Some(LogLevel::Warn) => LevelFilter::WARN,
        Some(LogLevel::Info) => LevelFilter::INFO,
        Some(LogLevel::Debug) => LevelFilter::DEBUG,
    }
}

/// The filter of the environment variable `RUST_LOG`, if it is set.
pub(super) fn of_environment() -> Option<EnvFilter> {
    EnvFilter::try_from_default_env().ok()
}

/// Admits what is of the level. A place's answer is remembered until the level changes, so it costs nothing.
#[derive(Debug)]
pub(super) struct ChangeableLevel<S>(PhantomData<fn(S)>);

impl<S> ChangeableLevel<S> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

fn admits(meta: &Metadata<'_>) -> bool {
    let noisy = NOISY.iter().any(|name| meta.target().starts_with(name));
    let limit = if noisy { LevelFilter::ERROR } else { limit() };
    *meta.level() <= limit
}

fn interest(meta: &Metadata<'_>) -> Interest {
    if admits(meta) {
        Interest::always()
    } else {
        Interest::never()
    }
}

impl<S: Subscriber> Layer<S> for ChangeableLevel<S> {
    fn register_callsite(&self, meta: &'static Metadata<'static>) -> Interest {
        interest(meta)
    }

    fn enabled(&self, meta: &Metadata<'_>, _: Context<'_, S>) -> bool {
        admits(meta)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(limit())
    }
}

impl<S: Subscriber> Filter<S> for ChangeableLevel<S> {
    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> Interest {
        interest(meta)
    }

    fn enabled(&self, meta: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        admits(meta)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(limit())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Event;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let target = event.metadata().target().to_owned();
            self.0.lock().unwrap().push(target);
        }
    }

    // One test, since the level belongs to the process.
    #[test]
    fn the_level_changes_while_the_process_runs() {
        assert_eq!(set_level(LogLevel::Debug), Err(LevelIsFixed));
        begin_with(LogLevel::Info);
        let seen = Seen::default();
        let subscriber = tracing_subscriber::registry()
            .with(ChangeableLevel::new())
            .with(seen.clone());
        let log = || {
            tracing::info!(target: "ours", "x");
            tracing::debug!(target: "ours::deep", "x");
            tracing::info!(target: "hyper_util::client", "x");
        };

        tracing::subscriber::with_default(subscriber, || {
            log();
            set_level(LogLevel::Debug).unwrap();
            log();
            set_level(LogLevel::Warn).unwrap();
            log();
        });

        assert_eq!(current_level(), Some(LogLevel::Warn));
        assert_eq!(*seen.0.lock().unwrap(), ["ours", "ours", "ours::deep"]);
    }
}
