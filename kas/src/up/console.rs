//! What `kas up` prints: lines, and a counter. On a terminal the counter is the last line, replaced in place;
//! elsewhere it is a line now and then.

use std::{
    io::{self, IsTerminal as _, Write},
    time::Duration,
};

use tokio::time::Instant;

/// How often the counter is a line where it cannot be replaced.
const COUNTER_INTERVAL: Duration = Duration::from_secs(5);
/// To the beginning of the line, and nothing on it.
const ERASE_LINE: &str = "\r\x1b[2K";

/// Standard output.
pub(super) struct Console {
    out: Box<dyn Write + Send>,
    is_terminal: bool,
    counter: String,
    printed: Option<(Instant, String)>,
}

impl Console {
    pub(super) fn stdout() -> Self {
        let out = io::stdout();
        Self::new(out.is_terminal(), Box::new(out))
    }

    fn new(is_terminal: bool, out: Box<dyn Write + Send>) -> Self {
        Self {
            out,
            is_terminal,
            counter: String::new(),
            printed: None,
        }
    }

    /// Prints a line, above the counter.
    pub(super) fn say(&mut self, line: &str) {
        match self.counter.is_empty() || !self.is_terminal {
            true => self.print(&format!("{line}\n")),
            false => self.print(&format!("{ERASE_LINE}{line}\n{}", self.counter)),
        }
    }

    /// Replaces the counter.
    pub(super) fn count(&mut self, counter: String) {
        if self.is_terminal {
            if self.counter != counter {
                self.print(&format!("{ERASE_LINE}{counter}"));
            }
        } else {
            let waited = |at: &Instant| at.elapsed() >= COUNTER_INTERVAL;
            if self.printed.as_ref().is_none_or(|(at, _)| waited(at)) {
                self.print_counter(&counter);
            }
        }
        self.counter = counter;
    }

    /// Leaves the counter as it is now, as a line.
    pub(super) fn keep_count(&mut self) {
        let counter = std::mem::take(&mut self.counter);
        let printed = self.printed.as_ref().map(|(_, counter)| counter);
        if counter.is_empty() {
        } else if self.is_terminal {
            // A line of the log may have taken its place.
            self.print(&format!("{ERASE_LINE}{counter}\n"));
        } else if printed != Some(&counter) {
            self.print_counter(&counter);
        }
    }

    fn print_counter(&mut self, counter: &str) {
        self.printed = Some((Instant::now(), counter.to_owned()));
        self.print(&format!("{counter}\n"));
    }

    /// Nobody reads it any more, perhaps; all else goes on.
    fn print(&mut self, text: &str) {
        let written = self.out.write_all(text.as_bytes());
        let _ = written.and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Default, Clone)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(is_terminal: bool, act: impl FnOnce(&mut Console)) -> String {
        let paper = Paper::default();
        act(&mut Console::new(is_terminal, Box::new(paper.clone())));
        let bytes = paper.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn both(console: &mut Console) {
        console.say("ready");
        console.count("1 request".to_owned());
        console.count("2 requests".to_owned());
        console.count("2 requests".to_owned());
        console.say("news");
        console.keep_count();
        console.say("end");
    }

    #[test]
    fn on_a_terminal_the_counter_is_replaced_and_stays_the_last_line() {
        assert_eq!(
            printed(true, both),
            "ready\n\r\x1b[2K1 request\r\x1b[2K2 requests\r\x1b[2Knews\n2 requests\r\x1b[2K2 requests\nend\n"
        );
    }

    #[test]
    fn elsewhere_it_is_a_line_now_and_then_and_at_the_end() {
        assert_eq!(
            printed(false, both),
            "ready\n1 request\nnews\n2 requests\nend\n"
        );
    }
}
