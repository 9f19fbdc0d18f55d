//! Lines for a person at a terminal, where another line may have begun that is not ended yet.

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::fmt::MakeWriter;

/// To the beginning of the line, and nothing on it.
const ERASE_LINE: &[u8] = b"\r\x1b[2K";

/// Standard error. At a terminal a line takes the place of one that is not ended, such as a counter's, whose owner
/// writes it again.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnLine {
    is_terminal: bool,
}

/// Writes one line.
#[derive(Debug)]
pub(super) struct Line<W> {
    to: W,
    first: &'static [u8],
}

impl OwnLine {
    pub(super) fn stderr() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
        }
    }
}

impl MakeWriter<'_> for OwnLine {
    type Writer = Line<io::StderrLock<'static>>;

    fn make_writer(&self) -> Self::Writer {
        Line {
            to: io::stderr().lock(),
            first: if self.is_terminal { ERASE_LINE } else { &[] },
        }
    }
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let first = std::mem::take(&mut self.first);
        if first.is_empty() {
            return self.to.write(bytes);
        }
        // In one piece, so that nobody else writes between.
        self.to.write_all(&[first, bytes].concat())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_a_terminal_a_line_takes_the_place_of_one_that_is_not_ended() {
        let mut written = b"1 request".to_vec();
        let mut line = Line {
            to: &mut written,
            first: ERASE_LINE,
        };

        line.write_all(b"WARN ").unwrap();
        line.write_all(b"slow\n").unwrap();

        assert_eq!(written, b"1 request\r\x1b[2KWARN slow\n");
    }
}
