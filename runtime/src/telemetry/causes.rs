//! An error with its causes, each once.

use std::{error::Error, fmt};

/// An error and what caused it, in one line: `outer: inner`. A cause that the error before it names already is left out.
#[derive(Debug)]
pub struct Causes<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
                last = text;
            }
            next = cause.source();
        }
        Ok(())
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
    }
}
