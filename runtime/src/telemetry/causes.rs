//! An error with its causes, each once.

use std::{error::Error, fmt};

/// An error and what caused it, in one line: `outer: inner`. A cause that is named already is left out.
#[derive(Debug)]
pub struct Causes<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let named = cause.to_string();
            if !text.contains(&named) {
                text.push_str(": ");
                text.push_str(&named);
            }
            next = cause.source();
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failed {
        #[error("cannot connect")]
        Connect(#[source] std::io::Error),
        #[error("cannot read: {0}")]
        Read(#[source] std::io::Error),
        #[error("cannot write ({0}); giving up")]
        Write(#[source] std::io::Error),
    }

    #[test]
    fn a_cause_is_named_once() {
        let cause = || std::io::Error::other("reset");

        assert_eq!(
            Causes(&Failed::Connect(cause())).to_string(),
            "cannot connect: reset"
        );
        assert_eq!(
            Causes(&Failed::Read(cause())).to_string(),
            "cannot read: reset"
        );
        assert_eq!(
            Causes(&Failed::Write(cause())).to_string(),
            "cannot write (reset); giving up"
        );
    }
}
