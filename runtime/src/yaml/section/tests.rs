//! What is read, refused and noted.

use std::path::Path;

use super::*;

section! {
    /// All kinds of keys.
    struct Document: Default {
        /// A section.
        inner: Inner = Inner::default(),
        /// One that may be absent.
        other: Option<Other> = None,
        /// One without effect.
        old: NoEffect<u32, Old> = NoEffect::new(5),
    }
}

section! {
    /// Values with defaults.
    struct Inner: Default {
        /// A number.
        number: u32 = 7,
        /// A text.
        text: String = "seven".to_owned(),
        /// A duration.
        time: Seconds = Seconds::new(7),
    }
    check = check_number;
}

section! {
    /// A key that must be there.
    struct Other {
        /// It.
        name: NonEmpty,
    }
}

/// Why `old` has none.
#[derive(Debug, Clone, Copy)]
enum Old {}

impl Reason for Old {
    const WHY: &'static str = "it is old";
}

impl Inner {
    fn check_number(&self, at: &At<'_>) -> Result<(), YamlError> {
        if self.number > 100 {
            return Err(at.key("number").mistake("too large"));
        }
        Ok(())
    }
}

fn read(text: &str) -> Result<(Document, Vec<Note>), YamlError> {
    read_section(Path::new("f"), text)
}

#[test]
fn what_is_absent_null_empty_or_zero_is_the_default_but_no_time_is_a_time() {
    for text in ["", "inner:", "inner: {}", "inner: {number: 0, text: ''}"] {
        assert_eq!(read(text).unwrap().0, Document::default(), "{text}");
    }
    let time = read("inner: {time: 0s}").unwrap().0.inner.time;
    assert_eq!(time, Seconds::new(0));
}

#[test]
fn a_required_key_is_missed_and_a_rule_points_at_its_key() {
    let missing = read("other: {}").unwrap_err().to_string();
    assert!(missing.contains("`name` is missing"), "{missing}");

    let wrong = read("inner:\n  text: a\n  number: 101\n").unwrap_err();
    assert_eq!(wrong.to_string(), "f:3:11: too large");
}

#[test]
fn keys_without_effect_and_unknown_ones_are_noted() {
    let (_, notes) = read("inner: {nunber: 1}\nold: 3\n").unwrap();

    let notes: Vec<_> = notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "1:9: inner.nunber is ignored: unknown key `nunber`, did you mean `number`?",
            "old is ignored: it is old",
        ]
    );
    assert!(read("old:").unwrap().1.is_empty(), "null is absent");
}
