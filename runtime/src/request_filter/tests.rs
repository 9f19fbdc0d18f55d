//! The filter against what hyper and h2 take.

use http::{HeaderMap, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::shares::{self, Shares};

const LINES: usize = 500;

fn limits() -> Limits {
    let unfinished = shares::Limits {
        total: 200 << 10,
        each: 120 << 10,
        reserved: 0,
    };
    Limits {
        head_bytes: 64 << 10,
        lines: LINES,
        unfinished: Shares::new(unfinished),
        from: [192, 0, 2, 1].into(),
    }
}

/// What is read of `pieces`, and what goes beside it.
fn through(pieces: &[&[u8]]) -> (Vec<u8>, Passage) {
    let passage = Passage::default();
    let mut requests = Requests(Protocol::Unknown(Vec::new(), limits(), passage.clone()));
    let mut all = Vec::new();
    for piece in pieces {
        let mut at = 0;
        while at < piece.len() {
            match requests.step(&piece[at..], &mut all).unwrap() {
                Step::Pass(length) => {
                    all.extend_from_slice(&piece[at..at + length]);
                    at += length;
                }
                Step::Take(length) => at += length,
            }
        }
    }
    (all, passage)
}

fn text(pieces: &[&[u8]]) -> String {
    String::from_utf8(through(pieces).0).unwrap()
}

/// The code of the refusal that stands in a request's place.
fn code(request: &str) -> u16 {
    let text = text(&[request.as_bytes()]);
    let target = text.split(' ').nth(1).unwrap_or_default();
    refusal(target).map_or(0, |it| it.code.as_u16())
}

const MESSAGES: &str = "\r\nPOST /a HTTP/1.1\r\ncontent-length: 7\r\n\r\nG /# H\n\
    POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n8;x=\"#\"\r\nG /# H\r\n\r\n0\r\nt: /#\r\n\r\n\
    GET /c#d HTTP/1.1\nhost: x\n\nGET /e?\"x HTTP/1.1\r\n\r\nGET /f HTTP/1.1\r\n\r\n";

fn expected() -> String {
    MESSAGES.replace("/c#d", "/%~h").replace("/e?\"x", "/%~q~")
}

#[test]
fn only_targets_are_replaced() {
    assert_eq!(text(&[MESSAGES.as_bytes()]), expected());
}

#[test]
fn what_hyper_would_answer_itself_is_replaced() {
    let long = "x".repeat(65_535);
    let lines = "a: b\r\n".repeat(LINES + 1);
    for (request, expected) in [
        ("GET /a HTTP/1.1\r\na b: c\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\na: b\x01\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\n\r\n", 400),
        ("GET /a HTTP/3.1\r\n\r\n", 400),
        ("\x16\x03\x01 ", 400),
        ("POST /a HTTP/1.1\r\ncontent-length: x\r\n\r\n", 400),
        (
            "POST /a HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            400,
        ),
        (
            "POST /a HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
        ),
        ("POST /a HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (&format!("GET /{long} HTTP/1.1\r\n\r\n"), 414),
        (&format!("GET /a HTTP/1.1\r\n{lines}\r\n"), 431),
        (&format!("GET /a HTTP/1.1\r\na: {long}\r\n\r\n"), 431),
        (&format!("GET /a HTTP/1.1\r\na: {long}"), 431),
        (
            "POST /a HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            0,
        ),
        ("GET /a HTTP/1.1\r\n\r\n", 0),
    ] {
        assert_eq!(
            code(request),
            expected,
            "{:?}",
            &request[..request.len().min(80)]
        );
    }
    assert!(text(&[b"HEAD /a HTTP/1.1\r\na b: c\r\n\r\n"]).starts_with("HEAD /%~n HTTP/1.1\r\n"));
}

#[test]
fn heads_that_are_not_whole_have_a_share() {
    let limits = limits();
    let half = format!("GET /a HTTP/1.1\r\na: {}", "x".repeat(50_000));
    let begin = || {
        let passage = Passage::default();
        let mut requests = Requests(Protocol::Unknown(Vec::new(), limits.clone(), passage));
        let mut output = Vec::new();
        assert!(requests.step(half.as_bytes(), &mut output).is_ok());
        (requests, output)
    };

    let (mut first, _) = begin();
    let second = begin();
    let (_, refused) = begin();

    assert!(refused.starts_with(b"GET /%~x"), "{refused:?}");
    assert_eq!(second.1, b"");
    assert!(first.step(b"\r\n\r\n", &mut Vec::new()).is_ok());
    assert!(begin().1.is_empty());
}

#[test]
fn nothing_passes_behind_a_refused_request() {
    let refused = text(&[
        b"G T /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
        b"GET /c HTTP/1.1\r\n\r\n",
    ]);

    assert_eq!(refused, "GET /%~m HTTP/1.1\r\nconnection: close\r\n\r\n");
}

#[test]
fn lines_that_hyper_has_no_room_for_go_beside_the_request() {
    let mut request = "GET /first HTTP/1.1\r\n\r\nPOST /a?b HTTP/1.1\r\n".to_owned();
    for number in 0..300 {
        request.push_str(&format!("Group: {number}\r\n"));
    }
    request.push_str("Content-Length: 3\r\n\r\nabcGET /last HTTP/1.1\r\n\r\n");

    let (all, passage) = through(&[request.as_bytes()]);

    let all = String::from_utf8(all).unwrap();
    assert_eq!(
        all.lines().filter(|line| line.starts_with("Group")).count(),
        99
    );
    assert!(
        all.contains("Content-Length: 3\r\n\r\nabcGET /last"),
        "{all}"
    );
    let mut lengths = Vec::new();
    for _ in 0..3 {
        let mut headers = HeaderMap::new();
        passage.complete(&mut headers);
        lengths.push(headers.len());
        if let Some(first) = headers.get("group") {
            assert_eq!(first, "99");
        }
    }
    assert_eq!(lengths, [0, 201, 0]);
}

#[test]
fn another_protocol_is_left_alone() {
    let passage = Passage::default();
    let mut requests = Requests(Protocol::Unknown(Vec::new(), limits(), passage.clone()));
    let mut output = Vec::new();
    let mut step = |bytes: &[u8]| {
        let mut at = 0;
        while at < bytes.len() {
            match requests.step(&bytes[at..], &mut output).unwrap() {
                Step::Pass(length) => {
                    output.extend_from_slice(&bytes[at..at + length]);
                    at += length;
                }
                Step::Take(length) => at += length,
            }
        }
        String::from_utf8(std::mem::take(&mut output)).unwrap()
    };
    let ask = b"GET /a HTTP/1.1\r\nUpgrade: x\r\n\r\n";

    step(ask);
    passage.answered(false);
    assert_eq!(
        step(b"GET /b#c HTTP/1.1\r\n\r\n"),
        "GET /%~h HTTP/1.1\r\n\r\n"
    );
    step(ask);
    passage.answered(true);
    assert_eq!(
        step(b"GET /b#c HTTP/1.1\r\n\r\n"),
        "GET /b#c HTTP/1.1\r\n\r\n"
    );
}

/// A frame of HEADERS with this block.
fn headers(block: &[u8], flags: u8) -> Vec<u8> {
    let length = u32::try_from(block.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], 1, flags, 0, 0, 0, 1];
    [&head, block].concat()
}

#[test]
fn a_path_of_http2_is_replaced_however_it_is_written() {
    let mut coded = Vec::new();
    httlib_huffman::encode(b"/a#b", &mut coded).unwrap();
    let coded = [
        &[0x80 | u8::try_from(coded.len()).unwrap()],
        coded.as_slice(),
    ]
    .concat();
    for (name, value) in [
        (&b"\x04"[..], &b"\x04/a#b"[..]),
        (b"\x45", b"\x04/a#b"),
        (b"\x00\x05:path", b"\x04/a#b"),
        (b"\x44", &coded),
    ] {
        let block = [b"\x82\x86", name, value].concat();
        let bytes = [PREFACE, &headers(&block, 4)].concat();
        for cut in [1, 30, bytes.len() - 1] {
            let (all, _) = through(&[&bytes[..cut], &bytes[cut..]]);
            let tail = [name, b"\x04/%~h"].concat();
            assert!(all.ends_with(&tail), "{name:?} at {cut}: {all:?}");
        }
    }
}

#[test]
fn a_path_is_found_at_the_beginning_of_a_head_of_any_length() {
    let block = [&b"\x82\x86\x04\x04/a#b"[..], &[0x90; 40_000]].concat();
    let mut bytes = [PREFACE, &headers(&block, 0)].concat();
    for _ in 0..4 {
        let mut frame = headers(&[0x90; 40_000], 0);
        frame[3] = 9;
        bytes.extend(frame);
    }
    bytes.extend(b"\x00\x00\x00\x09\x04\x00\x00\x00\x01");

    let (all, _) = through(&[&bytes]);

    assert_eq!(&all[PREFACE.len() + 9..][..8], b"\x82\x86\x04\x04/%~h");
    assert!(all.ends_with(b"\x00\x00\x00\x09\x04\x00\x00\x00\x01"));
    assert_eq!(all.iter().filter(|byte| **byte == 0x90).count(), 200_000);
}

#[test]
fn a_refusal_says_what_an_http_server_answers() {
    assert_eq!(
        refusal("/%~i").map(|it| it.code),
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    );
}

proptest! {
    #[test]
    fn messages_may_come_in_any_pieces(mut cuts in prop::collection::vec(0..MESSAGES.len(), 0..12)) {
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts {
            pieces.push(&MESSAGES.as_bytes()[from..cut]);
            from = cut;
        }
        pieces.push(&MESSAGES.as_bytes()[from..]);

        prop_assert_eq!(text(&pieces), expected());
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>, pieces in 1usize..40) {
        let pieces: Vec<_> = bytes.chunks(pieces).collect();
        through(&pieces);
        let http2: Vec<_> = [&[PREFACE], pieces.as_slice()].concat();
        let passage = Passage::default();
        let mut requests = Requests(Protocol::Unknown(Vec::new(), limits(), passage));
        for piece in http2 {
            let mut at = 0;
            while at < piece.len() {
                match requests.step(&piece[at..], &mut Vec::new()) {
                    Ok(Step::Pass(length) | Step::Take(length)) => at += length,
                    Err(_) => return Ok(()),
                }
            }
        }
    }
}
