//! Frames of SPDY/3.1: a head of eight bytes, and what it announces.

use crate::kubernetes_api::upgrade::channels::Unreadable;

/// Bytes of a head.
pub(crate) const HEAD_BYTES: usize = 8;
/// The flag of a frame behind which its stream has nothing more.
pub(crate) const FIN: u8 = 1;
const VERSION: u16 = 3;
pub(super) const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const HEADERS: u16 = 8;
/// Bytes of a control frame with headers, at most. Those of exec have a few hundred.
pub(super) const MAX_FRAME_BYTES: usize = 16 << 10;

/// How far one direction has been followed.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    head: [u8; HEAD_BYTES],
    /// Bytes that are here of the head.
    known: usize,
    /// Bytes of the frame behind its head that are still to come.
    left: usize,
}

/// Bytes of one frame that came together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Those of its head.
    pub(crate) head: usize,
    /// Those behind it.
    pub(crate) payload: usize,
}

impl Framing {
    /// Takes bytes up to the end of a frame.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Taken {
        if self.is_between_frames() {
            self.known = 0;
        }
        let head = (HEAD_BYTES - self.known).min(bytes.len());
        self.head[self.known..][..head].copy_from_slice(&bytes[..head]);
        self.known += head;
        if head > 0 && self.is_head_whole() {
            let [.., high, middle, low] = self.head;
            self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        }
        let payload = self.left.min(bytes.len() - head);
        self.left -= payload;
        Taken { head, payload }
    }

    /// Takes all of these.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Taken { head, payload } = self.take(bytes);
            bytes = &bytes[head + payload..];
        }
    }

    /// Whether all frames that were begun are whole.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.known == 0 || self.is_head_whole() && self.left == 0
    }

    /// Whether the frame's head is here.
    pub(crate) fn is_head_whole(&self) -> bool {
        self.known == HEAD_BYTES
    }

    /// The frame's head, which must be whole.
    pub(crate) fn head(&self) -> [u8; HEAD_BYTES] {
        self.head
    }

    /// Bytes of the frame behind its head that are still to come.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// The stream whose data the frame has; nothing for a control frame.
    pub(crate) fn stream(&self) -> Option<u32> {
        let [a, b, c, d, ..] = self.head;
        (a & 0x80 == 0).then(|| u32::from_be_bytes([a, b, c, d]))
    }

    /// The type of a control frame that has headers.
    fn headers(&self) -> Option<u16> {
        let [a, b, c, d, ..] = self.head;
        let version = u16::from_be_bytes([a & 0x7F, b]);
        let kind = u16::from_be_bytes([c, d]);
        let has_headers = matches!(kind, SYN_STREAM | SYN_REPLY | HEADERS);
        (a & 0x80 != 0 && version == VERSION && has_headers).then_some(kind)
    }
}

/// The frames of one direction, read.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    framing: Framing,
    /// What is here of a control frame with headers.
    control: Vec<u8>,
}

/// Something of a frame.
pub(crate) enum Piece<'a> {
    /// A whole control frame with headers, of this type.
    Control(u16, &'a [u8]),
    /// Bytes of a stream.
    Data(u32, &'a [u8]),
}

impl Frames {
    /// Calls `each` with what is in bytes that follow those before.
    pub(crate) fn read(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Piece<'_>) -> Result<(), Unreadable>,
    ) -> Result<(), Unreadable> {
        while !bytes.is_empty() {
            let Taken { head, payload } = self.framing.take(bytes);
            let (here, rest) = bytes.split_at(head + payload);
            let payload = &here[head..];
            bytes = rest;
            if !self.framing.is_head_whole() {
                continue;
            }
            let with_headers = self.framing.headers();
            if head > 0 {
                self.control.clear();
                let length = self.framing.left() + payload.len();
                if with_headers.is_some() && length > MAX_FRAME_BYTES {
                    return Err(Unreadable("headers of a stream that are too long"));
                }
            }
            if let Some(stream) = self.framing.stream() {
                each(Piece::Data(stream, payload))?;
            } else if let Some(kind) = with_headers {
                self.control.extend_from_slice(payload);
                if self.framing.left() == 0 {
                    each(Piece::Control(kind, &self.control))?;
                }
            }
        }
        Ok(())
    }
}
