//! An error with its causes on one line.

use std::error::Error;

/// The message of `error`, then those of its causes, each once.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("outer: {0}")]
    struct Telling(#[source] std::io::Error);

    #[test]
    fn each_cause_is_named_once() {
        let cause = || std::io::Error::other("connection refused");

        assert_eq!(chain(&Outer(cause())), "outer: connection refused");
        assert_eq!(chain(&Telling(cause())), "outer: connection refused");
    }
}
