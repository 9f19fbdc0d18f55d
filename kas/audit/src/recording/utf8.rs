//! Bytes that come in pieces, as text.

/// Keeps what is not a whole character yet.
#[derive(Debug, Default)]
pub(super) struct Utf8(Vec<u8>);

impl Utf8 {
    /// The text of these bytes, as far as its characters are whole. What is no text becomes U+FFFD.
    pub(super) fn take(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.0);
        all.extend_from_slice(bytes);
        let rest = all.split_off(all.len() - begun(&all));
        self.0 = rest;
        String::from_utf8_lossy(&all).into_owned()
    }

    /// What is left at the end.
    pub(super) fn rest(&mut self) -> String {
        let rest = std::mem::take(&mut self.0);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// Bytes at the end that begin a character.
fn begun(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let length = match bytes[bytes.len() - back] {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        return if length > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_whole_wherever_bytes_are_cut() {
        let text = "aé€🦀\u{1b}[2J ende";
        for size in 1..text.len() {
            let (mut utf8, mut read) = (Utf8::default(), String::new());
            for piece in text.as_bytes().chunks(size) {
                read += &utf8.take(piece);
            }
            assert_eq!(read + &utf8.rest(), text, "pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_text_is_marked() {
        let mut utf8 = Utf8::default();

        assert_eq!(utf8.take(b"a\xFFb\x80\xE2"), "a\u{FFFD}b\u{FFFD}");
        assert_eq!(utf8.take(b"c"), "\u{FFFD}c");
        assert_eq!(utf8.rest(), "");
    }
}
