//! Finds the ends of events in a JSON watch, byte by byte: objects one behind
//! the other, with the resource version in `object.metadata`. A table has it
//! there too, or else in the metadata of its rows' objects.

use super::event::{Event, INITIAL_END, Kind, MAX_VERSION_BYTES, Malformed, Step, version};

/// A place in an event that matters. All others are [`Node::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Event,
    Object,
    Metadata,
    Annotations,
    Rows,
    Row,
    RowObject,
    RowMetadata,
    Type,
    Version,
    RowVersion,
    InitialEnd,
    Other,
}

impl Node {
    fn child(self, key: &[u8]) -> Self {
        match (self, key) {
            (Self::Event, b"type") => Self::Type,
            (Self::Event, b"object") => Self::Object,
            (Self::Object, b"metadata") => Self::Metadata,
            (Self::Object, b"rows") => Self::Rows,
            (Self::Metadata, b"resourceVersion") => Self::Version,
            (Self::Metadata, b"annotations") => Self::Annotations,
            (Self::Annotations, INITIAL_END) => Self::InitialEnd,
            (Self::Row, b"object") => Self::RowObject,
            (Self::RowObject, b"metadata") => Self::RowMetadata,
            (Self::RowMetadata, b"resourceVersion") => Self::RowVersion,
            (Self::RowMetadata, b"annotations") => Self::Annotations,
            _ => Self::Other,
        }
    }

    fn element(self) -> Self {
        if self == Self::Rows {
            Self::Row
        } else {
            Self::Other
        }
    }

    fn is_text(self) -> bool {
        matches!(
            self,
            Self::Type | Self::Version | Self::RowVersion | Self::InitialEnd
        )
    }

    fn has_children(self) -> bool {
        !self.is_text() && self != Self::Other
    }
}

/// Where in a string the scanner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoted {
    No,
    Yes,
    /// The next byte is escaped.
    Escaped,
}

/// Reads a JSON watch, however its bytes are cut.
#[derive(Debug)]
pub(super) struct Scanner {
    /// The containers that matter and are open, and whether they are arrays.
    open: Vec<(Node, bool)>,
    /// How many are open below these.
    below: usize,
    quoted: Quoted,
    /// Whether the next string is a key.
    key: bool,
    /// What the next value is.
    next: Node,
    /// The string that is being read, if it matters.
    text: Option<Vec<u8>>,
    event: Event,
    row_version: Option<Box<str>>,
}

impl Scanner {
    /// A scanner at the beginning of a watch.
    pub(super) fn new() -> Self {
        Self {
            open: Vec::with_capacity(6),
            below: 0,
            quoted: Quoted::No,
            key: false,
            next: Node::Event,
            text: None,
            event: Event::default(),
            row_version: None,
        }
    }

    /// Reads up to the end of the next event or gap.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        let mut at = 0;
        if self.open.is_empty() {
            at = bytes.iter().take_while(|b| b.is_ascii_whitespace()).count();
            if at > 0 {
                return Ok(Step::Gap(at));
            }
        }
        while at < bytes.len() {
            if self.quoted == Quoted::No {
                let ended = self.step(bytes[at])?;
                at += 1;
                if ended {
                    return Ok(Step::Event(at, self.take()));
                }
            } else {
                at += self.read_string(&bytes[at..]);
            }
        }
        Ok(Step::Part)
    }

    /// Takes one byte outside of strings; says whether the event ends with it.
    fn step(&mut self, byte: u8) -> Result<bool, Malformed> {
        match byte {
            b'{' => self.enter(false),
            _ if self.open.is_empty() => return Err(Malformed),
            b'[' => self.enter(true),
            b'}' | b']' => return Ok(self.leave()),
            b',' if self.below == 0 => self.go_on(),
            b'"' => self.begin_string(),
            _ => {}
        }
        Ok(false)
    }

    fn enter(&mut self, array: bool) {
        if self.below > 0 || !self.next.has_children() {
            self.below += 1;
            return;
        }
        self.open.push((self.next, array));
        self.go_on();
    }

    fn leave(&mut self) -> bool {
        if self.below > 0 {
            self.below -= 1;
        } else {
            self.open.pop();
        }
        self.open.is_empty()
    }

    /// The next key or element of the innermost container that matters.
    fn go_on(&mut self) {
        let Some(&(node, array)) = self.open.last() else {
            return;
        };
        self.key = !array;
        self.next = if array { node.element() } else { Node::Other };
    }

    fn begin_string(&mut self) {
        self.quoted = Quoted::Yes;
        let matters = self.below == 0 && (self.key || self.next.is_text());
        self.text = matters.then(Vec::new);
    }

    /// Reads on in a string; gives the number of bytes that were of it.
    fn read_string(&mut self, bytes: &[u8]) -> usize {
        if self.quoted == Quoted::Escaped {
            self.quoted = Quoted::Yes;
            return 1;
        }
        let special = bytes.iter().position(|b| matches!(b, b'"' | b'\\'));
        let plain = &bytes[..special.unwrap_or(bytes.len())];
        self.text = self.text.take().and_then(|mut text| {
            text.extend_from_slice(plain);
            (text.len() <= MAX_VERSION_BYTES).then_some(text)
        });
        let Some(special) = special else {
            return bytes.len();
        };
        if bytes[special] == b'"' {
            self.end_string();
        } else {
            // Nothing that matters has an escape in it.
            self.quoted = Quoted::Escaped;
            self.text = None;
        }
        special + 1
    }

    fn end_string(&mut self) {
        self.quoted = Quoted::No;
        if self.below > 0 {
            return;
        }
        let text = self.text.take().unwrap_or_default();
        if std::mem::take(&mut self.key) {
            let parent = self.open.last().map_or(Node::Other, |(node, _)| *node);
            self.next = parent.child(&text);
            return;
        }
        match std::mem::replace(&mut self.next, Node::Other) {
            Node::Type => self.event.kind = Kind::of(&text),
            Node::Version => self.event.version = version(&text),
            Node::RowVersion => self.row_version = version(&text),
            Node::InitialEnd => self.event.initial_end = text == b"true",
            Node::Event
            | Node::Object
            | Node::Metadata
            | Node::Annotations
            | Node::Rows
            | Node::Row
            | Node::RowObject
            | Node::RowMetadata
            | Node::Other => {}
        }
    }

    fn take(&mut self) -> Event {
        self.next = Node::Event;
        let mut event = std::mem::take(&mut self.event);
        let row_version = self.row_version.take();
        event.version = event.version.or(row_version);
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object as the API server sends it, with what may mislead a reader.
    const POD: &str = r#"{"type":"MODIFIED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","ownerReferences":[{"metadata":{"resourceVersion":"1"}}],"annotations":{"x":"{\"type\":\"ERROR\"} \\","metadata":"{"},"resourceVersion":"249","labels":{"resourceVersion":"2"}},"spec":{"metadata":{"resourceVersion":"3"},"n":[1,-2.5e3,true,null,[],{}]},"type":"Opaque"}}"#;
    const TABLE: &str = r#"{"type":"ADDED","object":{"kind":"Table","metadata":{"resourceVersion":"200"},"columnDefinitions":null,"rows":[{"cells":["m1",1,{"metadata":{"resourceVersion":"5"}}],"object":{"metadata":{"resourceVersion":"199"}}}]}}"#;
    const OLD_TABLE: &str = r#"{"object":{"rows":[{"cells":["m1"],"object":{"metadata":{"name":"m1","resourceVersion":"199"}}}],"metadata":{}},"type":"DELETED"}"#;
    const END: &str = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;

    const TABLE_END: &str = r#"{"type":"BOOKMARK","object":{"kind":"Table","metadata":{"resourceVersion":"7"},"rows":[{"cells":[],"object":{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}]}}"#;

    fn events() -> Vec<(&'static str, Event)> {
        let event = |kind, version: &str, initial_end| Event {
            kind,
            version: Some(version.into()),
            initial_end,
        };
        vec![
            (POD, event(Kind::Modified, "249", false)),
            (TABLE, event(Kind::Added, "200", false)),
            (OLD_TABLE, event(Kind::Deleted, "199", false)),
            (END, event(Kind::Bookmark, "7", true)),
            (TABLE_END, event(Kind::Bookmark, "7", true)),
        ]
    }

    /// Reads chunks; gives events with the offsets of their ends.
    fn read(chunks: &[&[u8]]) -> Vec<(usize, Event)> {
        let (mut scanner, mut found, mut offset) = (Scanner::new(), Vec::new(), 0);
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                let taken = match scanner.feed(rest).unwrap() {
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
        found
    }

    #[test]
    fn events_end_where_they_end_however_the_bytes_are_cut() {
        let (mut text, mut expected) = (String::new(), Vec::new());
        for (json, event) in events() {
            text.push_str(json);
            expected.push((text.len(), event));
            text.push('\n');
        }
        let bytes = text.as_bytes();

        assert_eq!(read(&[bytes]), expected);
        for cut in 0..bytes.len() {
            assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]), expected, "{cut}");
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(read(&single), expected);
    }

    #[test]
    fn events_without_a_line_between_and_indented_ones_are_found() {
        for json in [TABLE, POD, END, OLD_TABLE] {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let text = format!("{pretty}{json} \r\n{pretty}");

            let found = read(&[text.as_bytes()]);

            assert_eq!(found.len(), 3);
            assert!(found.windows(2).all(|two| two[0].1 == two[1].1));
            assert_eq!(found[0].0, pretty.len());
        }
    }

    #[test]
    fn what_is_no_stream_of_objects_is_refused() {
        for text in ["[1]", "null", "\"x\"", "k8s"] {
            assert_eq!(Scanner::new().feed(text.as_bytes()), Err(Malformed));
        }
    }

    #[test]
    fn an_event_without_what_matters_is_unknown() {
        for text in [
            r#"{"kind":"Status","metadata":{}}"#,
            r#"{"type":["ADDED"],"object":[{"metadata":{"resourceVersion":"1"}}]}"#,
            r#"{"type":{"type":"ADDED"},"object":"metadata"}"#,
            r#"{"type":"ODD","object":{"metadata":{"resourceVersion":7}}}"#,
        ] {
            let step = Scanner::new().feed(text.as_bytes());
            assert_eq!(
                step,
                Ok(Step::Event(text.len(), Event::default())),
                "{text}"
            );
        }
    }
}
