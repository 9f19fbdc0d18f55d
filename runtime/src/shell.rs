//! Words of commands that people copy into a shell.

use std::borrow::Cow;

/// A word as any shell takes it for one, as it is: bash, zsh (which takes `[::1]` for a pattern of file names), fish, dash.
#[must_use]
pub fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:,+@%=".contains(&byte);
    // A `~` or `=` at the beginning of a word is replaced by a path.
    if !word.is_empty() && word.bytes().all(plain) && !word.starts_with('=') {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_shell_could_change_is_quoted() {
        for plain in ["wss://kas.example.com:8150/kas/", "a=b,c.d=%40", "/tmp/x"] {
            assert_eq!(quoted(plain), plain);
        }
        for (word, told) in [
            ("ws://[::1]:8150", "'ws://[::1]:8150'"),
            ("a b", "'a b'"),
            ("~x", "'~x'"),
            ("=ls", "'=ls'"),
            ("", "''"),
            ("it's $(id)", r"'it'\''s $(id)'"),
        ] {
            assert_eq!(quoted(word), told);
        }
    }
}
