//! Replaces values of one header field in the frames of an HTTP/2 connection. Pure.

mod hpack;

pub(crate) use hpack::Field;

use crate::filtered::{Step, StreamFilter};

const PREFACE: u8 = 24;
const FRAME_HEADER: usize = 9;
/// Largest frame that every peer accepts.
const FRAME_SIZE: usize = 16 << 10;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A header block is longer than 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header block is longer than 64 KiB")]
pub struct HeadersTooLong;

/// Where in the frames of an HTTP/2 connection the input stands.
#[derive(Debug)]
pub struct HeaderFilter {
    state: State,
    /// Whose values are replaced.
    field: &'static Field,
}

#[derive(Debug)]
enum State {
    /// So much of the client's connection preface is to come.
    Preface(u8),
    /// A frame begins.
    Frame,
    /// So much of a frame passes unseen.
    Payload(u32),
    /// Frames that arrive in pieces and must be seen whole.
    Collect(Box<Collect>),
}

#[derive(Debug)]
struct Collect {
    bytes: Vec<u8>,
    /// Where the last of the frames begins.
    frame: usize,
    /// How many bytes are needed to go on.
    wanted: usize,
}

impl HeaderFilter {
    /// Stands before the client's connection preface.
    pub(crate) fn new(field: &'static Field) -> Self {
        Self {
            state: State::Preface(PREFACE),
            field,
        }
    }

    /// The common cases, where a frame need not be copied: it is not about
    /// headers, or it is here as a whole.
    fn start_frame(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, HeadersTooLong> {
        let Some(header) = FrameHeader::parse(input) else {
            self.collect(input);
            return Ok(Step::Take(input.len()));
        };
        if header.kind != HEADERS {
            self.pass_payload(header.length);
            return Ok(Step::Pass(FRAME_HEADER));
        }
        let end = FRAME_HEADER + header.length;
        if header.flags & END_HEADERS == 0 || input.len() < end {
            self.collect(&input[..FRAME_HEADER]);
            self.go_on(output)?;
            return Ok(Step::Take(FRAME_HEADER));
        }
        if rewrite(&input[..end], self.field, true, output) {
            Ok(Step::Take(end))
        } else {
            Ok(Step::Pass(end))
        }
    }

    fn collect(&mut self, input: &[u8]) {
        self.state = State::Collect(Box::new(Collect {
            bytes: input.to_vec(),
            frame: 0,
            wanted: FRAME_HEADER,
        }));
    }

    fn pass_payload(&mut self, length: usize) {
        self.state = match length {
            0 => State::Frame,
            _ => State::Payload(u32::try_from(length).expect("it has 24 bits")),
        };
    }

    /// All wanted bytes are here: a frame header, or a whole frame.
    fn go_on(&mut self, output: &mut Vec<u8>) -> Result<(), HeadersTooLong> {
        let field = self.field;
        let State::Collect(collect) = &mut self.state else {
            return Ok(());
        };
        let header = collect.header();
        let whole = collect.frame + FRAME_HEADER + header.length;
        if !collect.is_expected(header) {
            output.append(&mut collect.bytes);
            self.pass_payload(header.length);
        } else if whole > field.max_bytes && field.refuses_longer {
            return Err(HeadersTooLong);
        } else if whole > field.max_bytes {
            let (seen, frame) = collect.bytes.split_at(collect.frame);
            if !rewrite(seen, field, false, output) {
                output.extend_from_slice(seen);
            }
            output.extend_from_slice(frame);
            self.pass_payload(header.length);
        } else if collect.bytes.len() < whole {
            collect.wanted = whole;
        } else if header.flags & END_HEADERS == 0 {
            collect.frame = whole;
            collect.wanted = whole + FRAME_HEADER;
        } else {
            if !rewrite(&collect.bytes, field, true, output) {
                output.append(&mut collect.bytes);
            }
            self.state = State::Frame;
        }
        Ok(())
    }
}

impl StreamFilter for HeaderFilter {
    type Error = HeadersTooLong;

    fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, HeadersTooLong> {
        match &mut self.state {
            State::Preface(left) => {
                let passed = input.len().min(usize::from(*left));
                *left -= u8::try_from(passed).expect("at most the preface");
                if *left == 0 {
                    self.state = State::Frame;
                }
                Ok(Step::Pass(passed))
            }
            State::Payload(left) => {
                let passed = input.len().min(*left as usize);
                *left -= u32::try_from(passed).expect("at most a frame");
                if *left == 0 {
                    self.state = State::Frame;
                }
                Ok(Step::Pass(passed))
            }
            State::Frame => self.start_frame(input, output),
            State::Collect(collect) => {
                let missing = collect.wanted - collect.bytes.len();
                let taken = input.len().min(missing);
                collect.bytes.extend_from_slice(&input[..taken]);
                if taken == missing {
                    self.go_on(output)?;
                }
                Ok(Step::Take(taken))
            }
        }
    }
}

impl Collect {
    fn header(&self) -> FrameHeader {
        FrameHeader::parse(&self.bytes[self.frame..]).expect("it was waited for")
    }

    /// Whether the last frame belongs to a header block; if not, h2 is to
    /// complain.
    fn is_expected(&self, header: FrameHeader) -> bool {
        match self.frame {
            0 => header.kind == HEADERS,
            frame => {
                let stream = |frame: usize| &self.bytes[frame + 5..frame + FRAME_HEADER];
                header.kind == CONTINUATION && stream(frame) == stream(0)
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct FrameHeader {
    length: usize,
    kind: u8,
    flags: u8,
}

impl FrameHeader {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, ..] = bytes.first_chunk::<FRAME_HEADER>()?;
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
        })
    }
}

/// Writes other frames to `output` if the header block in `frames`, of which more may come unless it
/// `ends`, needs that. Broken frames are left to h2.
fn rewrite(frames: &[u8], field: &Field, ends: bool, output: &mut Vec<u8>) -> bool {
    let Some((prefix, block)) = header_block(frames) else {
        return false;
    };
    let Some(block) = hpack::rewrite(&block, field, !ends) else {
        return false;
    };
    write_frames(frames, prefix, &block, ends, output);
    true
}

/// The priority fields and the header block of a HEADERS frame and its
/// CONTINUATION frames.
fn header_block(frames: &[u8]) -> Option<(&[u8], std::borrow::Cow<'_, [u8]>)> {
    let header = FrameHeader::parse(frames)?;
    let (first, mut rest) = frames[FRAME_HEADER..].split_at(header.length);
    let mut payload = first;
    if header.flags & PADDED != 0 {
        let (padding, padded) = first.split_first()?;
        payload = &padded[..padded.len().checked_sub(usize::from(*padding))?];
    }
    let priority = if header.flags & PRIORITY == 0 { 0 } else { 5 };
    let (priority, first) = payload.split_at_checked(priority)?;
    if rest.is_empty() {
        return Some((priority, first.into()));
    }
    let mut block = first.to_vec();
    while let Some(header) = FrameHeader::parse(rest) {
        let (piece, after) = rest[FRAME_HEADER..].split_at(header.length);
        block.extend_from_slice(piece);
        rest = after;
    }
    Some((priority, block.into()))
}

fn write_frames(frames: &[u8], priority: &[u8], block: &[u8], ends: bool, output: &mut Vec<u8>) {
    let flags = frames[4] & !(END_HEADERS | PADDED);
    let stream = &frames[5..FRAME_HEADER];
    let (first, rest) = block.split_at(block.len().min(FRAME_SIZE - priority.len()));
    let pieces = std::iter::once((HEADERS, flags, priority, first)).chain(
        rest.chunks(FRAME_SIZE)
            .map(|piece| (CONTINUATION, 0, &[][..], piece)),
    );
    let count = 1 + rest.len().div_ceil(FRAME_SIZE);
    for (at, (kind, flags, priority, piece)) in pieces.enumerate() {
        let end = if at + 1 == count && ends {
            END_HEADERS
        } else {
            0
        };
        let length = u32::try_from(priority.len() + piece.len()).expect("frames are bounded");
        output.extend_from_slice(&length.to_be_bytes()[1..]);
        output.extend_from_slice(&[kind, flags | end]);
        output.extend_from_slice(stream);
        output.extend_from_slice(priority);
        output.extend_from_slice(piece);
    }
}
