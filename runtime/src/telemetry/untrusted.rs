//! A text from the network in a log line.

use std::fmt::{self, Display, Write};

/// Bytes of a text that are shown.
const MAX_SHOWN_BYTES: usize = 256;

/// A text that somebody sent who need not be known: cut at 256 bytes, and without characters that a
/// terminal would obey. To be used for every such field: `path = %Untrusted(path)`.
#[derive(Debug, Clone, Copy)]
pub struct Untrusted<'a>(pub &'a str);

impl Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.floor_char_boundary(MAX_SHOWN_BYTES)];
        for character in shown.chars() {
            if is_harmless(character) {
                f.write_char(character)?;
            } else {
                write!(f, "{}", character.escape_default())?;
            }
        }
        if shown.len() < self.0.len() {
            write!(f, "… (cut, {} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

/// Control characters move a terminal's cursor; those of direction and without width hide text.
fn is_harmless(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_of_usual_length_is_shown_as_it_is() {
        assert_eq!(
            Untrusted("/api/v1/pods?größe=1").to_string(),
            "/api/v1/pods?größe=1"
        );
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        let shown = Untrusted("a\u{1b}[2J\r\n\u{202e}b").to_string();

        assert_eq!(shown, "a\\u{1b}[2J\\r\\n\\u{202e}b");
    }

    proptest! {
        #[test]
        fn no_text_makes_a_long_line(text in "\\PC*|.{0,2000}") {
            let shown = Untrusted(&text).to_string();

            prop_assert!(shown.len() <= MAX_SHOWN_BYTES * 10 + 40);
            prop_assert!(shown.chars().all(|character| !character.is_control()));
        }
    }
}
