//! Request targets that the parser of URIs refuses or cuts, and what stands in for them and for other
//! requests that no parser takes. Pure.
//!
//! A stand-in is a target that nobody means: it has an escape that is none, and a letter for why it
//! stands there. Somebody who sends one gets the refusal, as for any escape that is none.

use http::{StatusCode, uri::PathAndQuery};

/// How a stand-in begins.
const MARK: &[u8] = b"/%~";
const FILLER: u8 = b'~';
/// Longest target that hyper takes.
pub(super) const MAX_TARGET_BYTES: usize = 65_534;

/// Why a request was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    letter: u8,
    /// What an HTTP server answers.
    pub code: StatusCode,
    /// What is wrong with it.
    pub words: &'static str,
}

/// The target has what no URI has.
macro_rules! character {
    ($letter:literal, $what:literal) => {
        bad(
            $letter,
            concat!(
                "the request target has ",
                $what,
                " in it, which must be percent-encoded"
            ),
        )
    };
}

const fn bad(letter: u8, words: &'static str) -> Refusal {
    refused(letter, StatusCode::BAD_REQUEST, words)
}

const fn refused(letter: u8, code: StatusCode, words: &'static str) -> Refusal {
    Refusal {
        letter,
        code,
        words,
    }
}

const QUOTE: Refusal = character!(b'q', "a raw `\"`");
const HASH: Refusal = character!(b'h', "a raw `#`");
const LESS: Refusal = character!(b'l', "a raw `<`");
const GREATER: Refusal = character!(b'g', "a raw `>`");
const BACKTICK: Refusal = character!(b'b', "a raw backtick");
const SPACE: Refusal = character!(b's', "a raw space");
const CONTROL: Refusal = character!(b'c', "a control character");
const NOT_UTF8: Refusal = character!(b'u', "bytes that are not UTF-8");
const OTHER: Refusal = bad(
    b'o',
    "the request target is not the path and query of a URI",
);
/// The target is longer than 65,534 bytes.
pub(super) const TARGET_TOO_LONG: Refusal = refused(
    b't',
    StatusCode::URI_TOO_LONG,
    "the request target is longer than 65,534 bytes",
);
/// Something other than method, target and version.
pub(super) const REQUEST_LINE: Refusal = bad(
    b'm',
    "the request line is not a method, a target and HTTP/1.1, with a space between them",
);
/// Something other than a name, a colon and a value.
pub(super) const HEADER_LINE: Refusal =
    bad(b'n', "a header line is not a name, a colon and a value");
/// The end of the body cannot be known.
pub(super) const LENGTH: Refusal = bad(
    b'k',
    "Content-Length is not a number, differs from another one, or the body of HTTP/1.0 has a coding",
);
/// The body does not end as chunks do.
pub(super) const CODING: Refusal = refused(
    b'e',
    StatusCode::NOT_IMPLEMENTED,
    "the only Transfer-Encoding that is understood is chunked",
);
/// More bytes than allowed.
pub(super) const HEAD_TOO_LONG: Refusal = refused(
    b'r',
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "the request's head takes more bytes than allowed",
);
/// More lines than allowed.
pub(super) const TOO_MANY_LINES: Refusal = refused(
    b'i',
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "the request has more header lines than the 2000 allowed",
);

/// Others of the same address are not whole either.
pub(super) const TOO_MANY_LONG_HEADS: Refusal = refused(
    b'x',
    StatusCode::TOO_MANY_REQUESTS,
    "too many requests with long heads are being sent from this address",
);

const ALL: [Refusal; 17] = [
    QUOTE,
    HASH,
    LESS,
    GREATER,
    BACKTICK,
    SPACE,
    CONTROL,
    NOT_UTF8,
    OTHER,
    TARGET_TOO_LONG,
    REQUEST_LINE,
    HEADER_LINE,
    LENGTH,
    CODING,
    HEAD_TOO_LONG,
    TOO_MANY_LINES,
    TOO_MANY_LONG_HEADS,
];

impl Refusal {
    /// A request line, and the end of a head, behind which nothing is read.
    pub(super) fn request(self, is_head: bool) -> Vec<u8> {
        let method = if is_head { "HEAD" } else { "GET" };
        let mark = String::from_utf8_lossy(MARK);
        let letter = char::from(self.letter);
        format!("{method} {mark}{letter} HTTP/1.1\r\nconnection: close\r\n\r\n").into_bytes()
    }
}

/// Why this path stands where a request was that cannot be taken.
#[must_use]
pub fn refusal(path: &str) -> Option<Refusal> {
    let letter = path.as_bytes().strip_prefix(MARK)?.first();
    let found = ALL.into_iter().find(|it| Some(&it.letter) == letter);
    // A target that is too short for a letter has no more than three bytes.
    Some(found.unwrap_or(OTHER))
}

/// Something that the parser takes, as long as `target`, if it would not take that as it is.
pub(super) fn stand_in(target: &[u8]) -> Option<Vec<u8>> {
    if target.iter().all(|byte| is_plain(*byte)) || is_taken(target) {
        return None;
    }
    let found = target.iter().find_map(|byte| of_character(*byte));
    let found = found.unwrap_or(match std::str::from_utf8(target) {
        Ok(_) => OTHER,
        Err(_) => NOT_UTF8,
    });
    let mut other = MARK.to_vec();
    other.push(found.letter);
    other.resize(target.len().max(MARK.len() + 1), FILLER);
    other.truncate(target.len());
    Some(other)
}

/// Whether it is taken in a path and in a query alike.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'z' | b'~')
}

fn is_taken(target: &[u8]) -> bool {
    match target.first() {
        None => true,
        // It is refused for its length.
        Some(_) if target.len() > MAX_TARGET_BYTES => true,
        Some(b'/') => {
            PathAndQuery::try_from(target).is_ok_and(|it| it.as_str().len() == target.len())
        }
        // With a scheme, or nothing that is for us.
        Some(_) => !target.contains(&b'#') && http::Uri::try_from(target).is_ok(),
    }
}

fn of_character(byte: u8) -> Option<Refusal> {
    match byte {
        b'"' => Some(QUOTE),
        b'#' => Some(HASH),
        b'<' => Some(LESS),
        b'>' => Some(GREATER),
        b'`' => Some(BACKTICK),
        b' ' => Some(SPACE),
        0..=0x1F | 0x7F => Some(CONTROL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_stays() {
        for target in [
            "/",
            "*",
            "/a?b=c&d",
            "/{}|é?{}|é",
            "/%zz?%",
            "http://x/y",
            "x:443",
            "",
        ] {
            assert_eq!(stand_in(target.as_bytes()), None, "{target}");
        }
    }

    #[test]
    fn what_would_be_refused_or_cut_is_replaced_and_told() {
        for (target, expected) in [
            (&b"/a?\"b"[..], QUOTE),
            (b"/abc#d", HASH),
            (b"/ab<", LESS),
            (b"/a?b>", GREATER),
            (b"/ab`", BACKTICK),
            (b"/a b", SPACE),
            (b"/a\x01b", CONTROL),
            (b"/a\xFFb", NOT_UTF8),
            (b"http://x/y#z", HASH),
            (b"/#x", OTHER),
        ] {
            let other = stand_in(target).unwrap();
            assert_eq!(other.len(), target.len());
            let text = String::from_utf8(other).unwrap();
            assert!(PathAndQuery::try_from(text.as_str()).unwrap().as_str() == text);
            assert_eq!(refusal(&text), Some(expected));
        }
        assert_eq!(refusal("/api"), None);
    }

    #[test]
    fn letters_are_told_apart() {
        let mut letters: Vec<_> = ALL.iter().map(|it| it.letter).collect();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), ALL.len());
    }
}
