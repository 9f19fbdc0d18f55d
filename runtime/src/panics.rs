//! What a panic costs: one connection, or the process where something would be missing from then on.
//!
//! A panic is a bug. Where it happens in the task of a connection or a call, only that task ends, and
//! everybody else goes on: that is why the release profile unwinds. [`vital`] is for the tasks without
//! which a process only seems to live, as those that accept connections: their panic ends it, and
//! its supervisor starts it again.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, PanicHookInfo},
    sync::OnceLock,
};

use futures_util::FutureExt;
use prometheus_client::metrics::counter::Counter;

use crate::telemetry::Untrusted;

/// The exit status of a process that a panic ends, as Rust's own.
const EXIT_STATUS: i32 = 101;

/// Panics of this process since its start.
#[must_use]
pub fn count() -> &'static Counter {
    static COUNT: OnceLock<Counter> = OnceLock::new();
    COUNT.get_or_init(Counter::default)
}

/// Has every panic logged, with its place, and counted; instead of Rust's own message on stderr.
pub fn log_and_count() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        count().inc();
        let place = info.location().map(ToString::to_string);
        tracing::error!(
            place = place.as_deref().unwrap_or("unknown"),
            error = %Untrusted(text(info.payload())),
            thread = std::thread::current().name(),
            "task panicked; this is a bug, please report it"
        );
    }));
}

/// Runs a task without which the process does not work. If it panics, the process ends.
pub async fn vital<F: Future>(name: &'static str, task: F) -> F::Output {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(output) => output,
        Err(_) => {
            tracing::error!(
                task = name,
                "vital task panicked; exiting so that the process is restarted"
            );
            std::process::exit(EXIT_STATUS)
        }
    }
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_panic_says_is_found() {
        assert_eq!(text(&"literal"), "literal");
        assert_eq!(text(&String::from("formatted")), "formatted");
        assert_eq!(text(&7), "no text");
    }

    #[tokio::test]
    async fn a_vital_task_gives_its_result() {
        assert_eq!(vital("sum", async { 1 + 1 }).await, 2);
    }
}
