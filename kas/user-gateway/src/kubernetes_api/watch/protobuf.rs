//! Finds the ends of events in a protobuf watch: frames behind a length of four
//! bytes, each a `WatchEvent` that holds a `RawExtension` that holds, behind
//! `k8s\0`, an `Unknown` that holds the object, whose first field is its metadata.

use super::event::{Event, INITIAL_END, Kind, MAX_VERSION_BYTES, Malformed, Step, version};

const MAGIC: &[u8] = b"k8s\0";

/// A place in an event that matters. All others are [`Node::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Event,
    Extension,
    Unknown,
    Object,
    Metadata,
    Annotation,
    Magic,
    Type,
    Version,
    Key,
    Value,
    Other,
}

impl Node {
    fn child(self, field: u64) -> Self {
        match (self, field) {
            (Self::Event, 1) => Self::Type,
            (Self::Event, 2) => Self::Extension,
            (Self::Extension, 1) => Self::Unknown,
            (Self::Unknown, 2) => Self::Object,
            (Self::Object, 1) => Self::Metadata,
            (Self::Metadata, 6) => Self::Version,
            (Self::Metadata, 12) => Self::Annotation,
            (Self::Annotation, 1) => Self::Key,
            (Self::Annotation, 2) => Self::Value,
            _ => Self::Other,
        }
    }
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Tag,
    Value,
    LengthOf(Node),
}

/// What the next byte is of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The length of an event, of which so many bytes were there.
    Prefix(u8, u32),
    /// A number, and how many of its bits are known.
    Number(Number, u64, u32),
    /// Bytes that do not matter, so many.
    Skip(u64),
    /// Bytes that do, and how many are missing.
    Text(Node, u64, Vec<u8>),
}

const TAG: State = State::Number(Number::Tag, 0, 0);

/// Reads a protobuf watch, however its bytes are cut.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    /// Bytes of the event that were there.
    at: u64,
    /// The messages that are open, and where they end.
    open: Vec<(Node, u64)>,
    event: Event,
    is_end_key: bool,
}

impl Scanner {
    /// A scanner at the beginning of a watch.
    pub(super) fn new() -> Self {
        Self {
            state: State::Prefix(0, 0),
            at: 0,
            open: Vec::with_capacity(6),
            event: Event::default(),
            is_end_key: false,
        }
    }

    /// Reads up to the end of the next event.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        let mut taken = 0;
        while taken < bytes.len() {
            taken += self.read(&bytes[taken..])?;
            if self.is_over()? {
                self.state = State::Prefix(0, 0);
                return Ok(Step::Event(taken, std::mem::take(&mut self.event)));
            }
        }
        Ok(Step::Part)
    }

    /// Reads some bytes, at least one; gives how many.
    fn read(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let first = bytes[0];
        let taken = match &mut self.state {
            State::Prefix(..) => return self.read_prefix(first),
            State::Number(..) => {
                self.at += 1;
                self.read_number(first)?;
                return Ok(1);
            }
            State::Skip(left) => {
                let taken = most(*left, bytes);
                *left -= taken as u64;
                taken
            }
            State::Text(_, left, text) => {
                let taken = most(*left, bytes);
                text.extend_from_slice(&bytes[..taken]);
                *left -= taken as u64;
                taken
            }
        };
        self.at += taken as u64;
        self.finish();
        Ok(taken)
    }

    fn read_prefix(&mut self, byte: u8) -> Result<usize, Malformed> {
        let State::Prefix(count, length) = &mut self.state else {
            return Err(Malformed);
        };
        *length = *length << 8 | u32::from(byte);
        *count += 1;
        if *count == 4 {
            self.at = 0;
            self.open.push((Node::Event, u64::from(*length)));
            self.state = TAG;
        }
        Ok(1)
    }

    fn read_number(&mut self, byte: u8) -> Result<(), Malformed> {
        let State::Number(number, value, bits) = &mut self.state else {
            return Err(Malformed);
        };
        if *bits > 63 {
            return Err(Malformed);
        }
        *value |= u64::from(byte & 0x7f) << *bits;
        *bits += 7;
        if byte & 0x80 != 0 {
            return Ok(());
        }
        let (number, value) = (*number, *value);
        match number {
            Number::Tag => self.begin_field(value >> 3, value & 7),
            Number::Value => {
                self.state = TAG;
                Ok(())
            }
            Number::LengthOf(node) => self.begin(node, value),
        }
    }

    fn begin_field(&mut self, field: u64, wire_type: u64) -> Result<(), Malformed> {
        let node = self.open.last().map_or(Node::Other, |(node, _)| *node);
        match wire_type {
            0 => self.state = State::Number(Number::Value, 0, 0),
            1 => return self.begin(Node::Other, 8),
            2 => self.state = State::Number(Number::LengthOf(node.child(field)), 0, 0),
            5 => return self.begin(Node::Other, 4),
            _ => return Err(Malformed),
        }
        Ok(())
    }

    fn begin(&mut self, node: Node, length: u64) -> Result<(), Malformed> {
        let end = self.at.checked_add(length).ok_or(Malformed)?;
        if self.open.last().is_none_or(|(_, limit)| end > *limit) {
            return Err(Malformed);
        }
        self.state = match node {
            Node::Other | Node::Event => State::Skip(length),
            Node::Type | Node::Version | Node::Key | Node::Value | Node::Magic => {
                if length <= MAX_VERSION_BYTES as u64 {
                    State::Text(node, length, Vec::new())
                } else {
                    State::Skip(length)
                }
            }
            Node::Unknown if length >= MAGIC.len() as u64 => {
                self.open.push((node, end));
                State::Text(Node::Magic, MAGIC.len() as u64, Vec::new())
            }
            Node::Unknown => State::Skip(length),
            Node::Extension | Node::Object | Node::Metadata | Node::Annotation => {
                self.is_end_key = false;
                self.open.push((node, end));
                TAG
            }
        };
        self.finish();
        Ok(())
    }

    /// Goes on to the next field when bytes are all there.
    fn finish(&mut self) {
        let done = matches!(self.state, State::Skip(0) | State::Text(_, 0, _));
        if !done {
            return;
        }
        let State::Text(node, _, text) = std::mem::replace(&mut self.state, TAG) else {
            return;
        };
        match node {
            Node::Type => self.event.kind = Kind::of(&text),
            Node::Version => self.event.version = version(&text),
            Node::Key => self.is_end_key = text == INITIAL_END,
            Node::Value => self.event.initial_end |= self.is_end_key && text == b"true",
            Node::Magic if text != MAGIC => self.skip_message(),
            Node::Magic
            | Node::Event
            | Node::Extension
            | Node::Unknown
            | Node::Object
            | Node::Metadata
            | Node::Annotation
            | Node::Other => {}
        }
    }

    /// The innermost message is of no known kind.
    fn skip_message(&mut self) {
        if let Some((_, end)) = self.open.pop()
            && end > self.at
        {
            self.state = State::Skip(end - self.at);
        }
    }

    /// Closes the messages that end here; says whether the event does.
    fn is_over(&mut self) -> Result<bool, Malformed> {
        if matches!(self.state, State::Prefix(..)) {
            return Ok(false);
        }
        while self.open.last().is_some_and(|(_, end)| self.at >= *end) {
            if self.state != TAG {
                return Err(Malformed);
            }
            self.open.pop();
        }
        Ok(self.open.is_empty())
    }
}

fn most(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length > 0x7f {
            field.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        field.push(u8::try_from(length).unwrap());
        field.extend_from_slice(bytes);
        field
    }

    /// An event as the API server sends it: 1.33's own bytes have this form.
    fn frame(kind: &str, version: &str, annotations: &[(&str, &str)], spec: &[u8]) -> Vec<u8> {
        let mut metadata = [field(1, b"m1"), field(2, b""), field(6, version.as_bytes())].concat();
        // A number and fixed ones, as other fields have them.
        metadata.extend([
            0x38, 0x96, 0x01, 0x49, 1, 2, 3, 4, 5, 6, 7, 8, 0x55, 1, 2, 3, 4,
        ]);
        for (key, value) in annotations {
            let pair = [field(1, key.as_bytes()), field(2, value.as_bytes())].concat();
            metadata.extend(field(12, &pair));
        }
        let object = [field(1, &metadata), field(2, spec)].concat();
        let types = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
        let unknown = [
            MAGIC.to_vec(),
            field(1, &types),
            field(2, &object),
            field(3, b""),
            field(4, b""),
        ];
        framed(
            &[
                field(1, kind.as_bytes()),
                field(2, &field(1, &unknown.concat())),
            ]
            .concat(),
        )
    }

    fn framed(event: &[u8]) -> Vec<u8> {
        let length = u32::try_from(event.len()).unwrap();
        [&length.to_be_bytes(), event].concat()
    }

    fn read(chunks: &[&[u8]]) -> Result<Vec<(usize, Event)>, Malformed> {
        let (mut scanner, mut found, mut offset) = (Scanner::new(), Vec::new(), 0);
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                let taken = match scanner.feed(rest)? {
                    Step::Gap(n) => n,
                    Step::Event(n, event) => {
                        found.push((offset + n, event));
                        n
                    }
                    Step::Part => rest.len(),
                };
                rest = &rest[taken..];
                offset += taken;
            }
        }
        Ok(found)
    }

    fn event(kind: Kind, text: &str, initial_end: bool) -> Event {
        let version = version(text.as_bytes());
        Event {
            kind,
            version,
            initial_end,
        }
    }

    #[test]
    fn events_end_where_they_end_however_the_bytes_are_cut() {
        // The API server's own bytes for a version that is too old.
        let mut error = vec![0, 0, 0, 0x61, 0x0a, 5];
        error.extend(b"ERROR\x12\x58\x0a\x56k8s\0\x0a\x0c\x0a\x02v1\x12\x06Status\x12\x3e\x0a\x06");
        error.extend(b"\x0a\0\x12\0\x1a\0\x12\x07Failure\x1a\x1ftoo old resource version: 1 (2)");
        error.extend(b"\x22\x07Expired0\x9a\x03\x1a\0\x22\0");
        let end = [("a", "true"), ("k8s.io/initial-events-end", "true")];
        let frames = [
            (
                frame("ADDED", "249", &[], &[7; 300]),
                event(Kind::Added, "249", false),
            ),
            (
                frame("BOOKMARK", "250", &end, b""),
                event(Kind::Bookmark, "250", true),
            ),
            (
                frame("DELETED", "", &end[..1], b""),
                event(Kind::Deleted, "", false),
            ),
            (error, event(Kind::Error, "", false)),
        ];
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (frame, event) in frames {
            bytes.extend(frame);
            expected.push((bytes.len(), event));
        }

        assert_eq!(read(&[&bytes]).unwrap(), expected);
        for cut in 0..bytes.len() {
            let found = read(&[&bytes[..cut], &bytes[cut..]]);
            assert_eq!(found.unwrap(), expected, "{cut}");
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(read(&single).unwrap(), expected);
    }

    #[test]
    fn an_object_that_is_not_in_protobuf_has_no_version() {
        let json = br#"{"metadata":{"resourceVersion":"7"}}"#;
        let bytes = framed(&[field(1, b"ADDED"), field(2, &field(1, json))].concat());

        assert_eq!(
            read(&[&bytes]),
            Ok(vec![(bytes.len(), event(Kind::Added, "", false))])
        );
        assert_eq!(read(&[&[0, 0, 0]]), Ok(vec![]));
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for bytes in [
            &[0, 0, 0, 2, 0x0a, 5][..],
            &[0, 0, 0, 1, 0x0a],
            &[0, 0, 0, 3, 0x08, 0x80, 0x80],
            &[0, 0, 0, 2, 0x0b, 1],
            &[0, 0, 0, 4, 0x12, 2, 0x0a, 9],
            b"{\"ty\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(read(&[bytes]), Err(Malformed), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_fail_in_another_way(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            cut in 0_usize..200,
        ) {
            let length = u32::try_from(bytes.len()).unwrap();
            let framed = [&length.to_be_bytes()[..], &bytes].concat();
            let cut = cut.min(framed.len());

            proptest::prop_assert_eq!(read(&[&framed]), read(&[&framed[..cut], &framed[cut..]]));
        }
    }
}
