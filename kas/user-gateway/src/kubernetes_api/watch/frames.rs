//! Cuts a watch into events: only whole ones are passed on, so that what
//! follows a break never completes a part of one.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Encoding,
    event::{Event, Malformed, Step},
    json,
    position::{Point, Position},
    protobuf,
};

/// Bytes of an event that are held back, at most. A larger one is passed on as
/// it comes, and a break in the middle of it cannot be mended.
const MAX_HELD_BYTES: usize = 4 << 20;
/// Shorter parts of an event that is held back are put together: each by itself would take up more than it brings.
const SHORT_PART_BYTES: usize = 1 << 10;

#[derive(Debug)]
enum Scanner {
    Json(json::Scanner),
    Protobuf(protobuf::Scanner),
}

impl Scanner {
    fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json(json::Scanner::new()),
            Encoding::Protobuf => Self::Protobuf(protobuf::Scanner::new()),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        match self {
            Self::Json(scanner) => scanner.feed(bytes),
            Self::Protobuf(scanner) => scanner.feed(bytes),
        }
    }
}

/// A watch on its way to the client.
#[derive(Debug)]
pub(super) struct Frames {
    encoding: Encoding,
    /// Nothing once the bytes are no watch.
    scanner: Option<Scanner>,
    position: Position,
    /// The event that is not whole yet.
    tail: Vec<Bytes>,
    /// Short parts of it, behind those.
    short: BytesMut,
    held: usize,
    /// Whether the client has a part of it.
    exposed: bool,
    /// Whether the last event was kept from the client, and so is the gap.
    hidden: bool,
    /// Whether the client's last line is not ended.
    in_line: bool,
    ready: VecDeque<Bytes>,
}

impl Frames {
    /// A watch at its beginning.
    pub(super) fn new(encoding: Encoding, position: Position) -> Self {
        Self {
            encoding,
            scanner: Some(Scanner::new(encoding)),
            position,
            tail: Vec::new(),
            short: BytesMut::new(),
            held: 0,
            exposed: false,
            hidden: false,
            in_line: false,
            ready: VecDeque::new(),
        }
    }

    /// The next bytes for the client.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// Whether all was passed on.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Takes bytes of the watch.
    pub(super) fn push(&mut self, mut chunk: Bytes) {
        let mut wanted = 0;
        while wanted < chunk.len() {
            match self.feed(&chunk[wanted..]) {
                Step::Gap(length) if self.hidden => {
                    self.pass(chunk.split_to(wanted));
                    chunk.advance(length);
                    wanted = 0;
                }
                Step::Gap(length) => wanted += length,
                Step::Event(length, event) => {
                    if self.is_wanted(event) {
                        self.release();
                        wanted += length;
                    } else {
                        self.forget();
                        self.pass(chunk.split_to(wanted));
                        chunk.advance(length);
                        wanted = 0;
                    }
                }
                Step::Part => {
                    self.pass(chunk.split_to(wanted));
                    return self.hold(chunk);
                }
            }
        }
        self.pass(chunk);
    }

    /// No more bytes follow, in good order: what is here is all.
    pub(super) fn end(&mut self) {
        self.release();
    }

    /// Whether the list that the watch repeats is not the one that the client has, so that it must end at once.
    pub(super) fn differ(&self) -> bool {
        self.position.differs()
    }

    /// Whether the client has a part of an event, so that nothing else may follow.
    pub(super) fn is_within_event(&self) -> bool {
        self.exposed
    }

    /// Where the watch goes on after a break, if that is known.
    pub(super) fn point(&self) -> Option<Point> {
        self.position.point().filter(|_| !self.exposed)
    }

    /// The watch begins again at [`Self::point`].
    pub(super) fn resume(&mut self) {
        self.position.resume();
        self.forget();
        self.hidden = false;
        self.scanner = Some(Scanner::new(self.encoding));
        if self.encoding == Encoding::Json && self.in_line {
            self.pass(Bytes::from_static(b"\n"));
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Step {
        match self.scanner.as_mut().map(|scanner| scanner.feed(bytes)) {
            Some(Ok(step)) => step,
            Some(Err(Malformed)) | None => {
                self.scanner = None;
                self.position.lose();
                self.hidden = false;
                self.release();
                Step::Gap(bytes.len())
            }
        }
    }

    fn is_wanted(&mut self, event: Event) -> bool {
        // What the client has begun to read must be read to its end.
        let wanted = self.position.see(event) || self.exposed;
        self.hidden = !wanted;
        wanted
    }

    fn hold(&mut self, part: Bytes) {
        self.held += part.len();
        if part.len() < SHORT_PART_BYTES {
            self.short.extend_from_slice(&part);
        } else {
            self.join();
            self.tail.push(part);
        }
        if self.held > MAX_HELD_BYTES {
            self.release();
            self.exposed = true;
            self.held = MAX_HELD_BYTES;
        }
    }

    /// Makes one part of the short ones.
    fn join(&mut self) {
        if !self.short.is_empty() {
            self.tail.push(std::mem::take(&mut self.short).freeze());
        }
    }

    /// Passes on what is held.
    fn release(&mut self) {
        self.join();
        for part in std::mem::take(&mut self.tail) {
            self.pass(part);
        }
        self.held = 0;
        self.exposed = false;
    }

    fn forget(&mut self) {
        self.tail.clear();
        self.short.clear();
        self.held = 0;
    }

    fn pass(&mut self, bytes: Bytes) {
        if let Some(last) = bytes.last() {
            self.in_line = *last != b'\n';
            self.ready.push_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(kind: &str, version: &str) -> String {
        format!(
            "{{\"type\":\"{kind}\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{version}\"}}}}}}\n"
        )
    }

    fn frames(hides_bookmarks: bool) -> Frames {
        let position = Position::new(Some("1"), None, hides_bookmarks);
        Frames::new(Encoding::Json, position)
    }

    fn popped(frames: &mut Frames) -> String {
        let mut all = Vec::new();
        while let Some(bytes) = frames.pop() {
            assert!(!bytes.is_empty());
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).unwrap()
    }

    fn behind(version: &str) -> Option<Point> {
        Some(Point::Behind(version.into()))
    }

    #[test]
    fn a_break_anywhere_leaves_whole_events_and_the_place_behind_them() {
        let events = ["2", "3", "4"].map(|version| json("MODIFIED", version));
        let text = events.concat();
        for cut in 0..=text.len() {
            let mut frames = frames(false);

            frames.push(Bytes::copy_from_slice(&text.as_bytes()[..cut]));
            let before = popped(&mut frames);
            let point = frames.point();
            frames.resume();
            let whole = events.iter().scan(0, |end, event| {
                *end += event.len();
                // The line's end is not a part of the event.
                Some(*end - 1)
            });
            let whole = whole.filter(|end| *end <= cut).count();
            frames.push(events[whole..].concat().into());

            assert_eq!(point, behind(&(1 + whole).to_string()), "{cut}");
            assert_eq!(before.trim_end(), events[..whole].concat().trim_end());
            assert_eq!(before + &popped(&mut frames), text, "{cut}");
        }
    }

    #[test]
    fn chunks_of_any_size_come_out_as_they_went_in() {
        let text = ["2", "3", "4"]
            .map(|version| json("ADDED", version))
            .concat();
        for size in 1..text.len() {
            let mut frames = frames(true);

            for chunk in text.as_bytes().chunks(size) {
                frames.push(Bytes::copy_from_slice(chunk));
            }

            assert_eq!(popped(&mut frames), text);
            assert_eq!(frames.point(), behind("4"));
        }
    }

    #[test]
    fn bookmarks_are_taken_out_with_their_lines_wherever_bytes_are_cut() {
        let (first, bookmark, last) = (
            json("ADDED", "2"),
            json("BOOKMARK", "3"),
            json("ADDED", "4"),
        );
        let text = [&bookmark, &first, &bookmark, &bookmark, &last, &bookmark].map(String::as_str);
        let text = text.concat();
        for size in 1..=text.len() {
            let mut frames = frames(true);

            for chunk in text.as_bytes().chunks(size) {
                frames.push(Bytes::copy_from_slice(chunk));
            }

            assert_eq!(popped(&mut frames), format!("{first}{last}"), "{size}");
            assert_eq!(frames.point(), behind("3"));
        }
    }

    #[test]
    fn bookmarks_are_for_a_client_that_asked() {
        let mut frames = frames(false);

        frames.push(json("BOOKMARK", "3").into());

        assert_eq!(popped(&mut frames), json("BOOKMARK", "3"));
    }

    #[test]
    fn events_of_one_chunk_stay_in_one_piece() {
        let text = ["2", "3", "4"]
            .map(|version| json("ADDED", version))
            .concat();
        let mut frames = frames(true);

        frames.push(text.clone().into());

        assert_eq!(frames.pop().unwrap(), text);
        assert_eq!(frames.pop(), None);
    }

    #[test]
    fn an_event_that_is_too_large_is_passed_on_as_it_comes_and_cannot_be_resumed() {
        let mut frames = frames(true);
        let (head, rest) = (
            "{\"type\":\"ADDED\",\"x\":\"",
            "\",\"object\":{\"metadata\":{\"resourceVersion\":\"2\"}}}",
        );
        let part = Bytes::from(vec![b'x'; 1 << 20]);

        frames.push(head.into());
        for _ in 0..3 {
            frames.push(part.clone());
        }
        assert_eq!(frames.pop(), None);
        assert_eq!(frames.point(), behind("1"));

        frames.push(part.clone());
        assert_eq!(popped(&mut frames).len(), head.len() + (4 << 20));
        assert_eq!(frames.point(), None);
        frames.push(part);
        assert_eq!(popped(&mut frames).len(), 1 << 20);

        frames.push(rest.into());
        assert_eq!(popped(&mut frames), rest);
        assert_eq!(frames.point(), behind("2"));
    }

    #[test]
    fn what_is_no_watch_passes_as_it_is_and_cannot_be_resumed() {
        let mut frames = frames(true);

        frames.push(json("ADDED", "2").into());
        frames.push("not found\n".into());
        frames.push(json("BOOKMARK", "3").into());

        let expected = [
            json("ADDED", "2"),
            "not found\n".into(),
            json("BOOKMARK", "3"),
        ];
        assert_eq!(popped(&mut frames), expected.concat());
        assert_eq!(frames.point(), None);
    }

    #[test]
    fn an_orderly_end_passes_on_what_is_there() {
        let mut frames = frames(true);

        frames.push("{\"type\":".into());
        assert_eq!(frames.pop(), None);
        frames.end();

        assert_eq!(popped(&mut frames), "{\"type\":");
    }
}
