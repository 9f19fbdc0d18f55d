//! The messages of a WebSocket that is passed on, read on the way. Nothing is kept but a header.

use super::frame::{self, MAX_CONTROL, MAX_HEADER, Opcode};

/// Bytes that are unmasked at a time.
const UNMASKED_BYTES: usize = 1 << 10;

/// A part of a message: bytes of it that came together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// Whether the message begins with it.
    pub first: bool,
    /// Whether the message ends with it.
    pub last: bool,
    /// Its bytes.
    pub data: &'a [u8],
}

/// What came is no WebSocket without extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what came is no WebSocket: {0}")]
pub struct NoWebSocket(pub &'static str);

/// One direction of a WebSocket.
#[derive(Debug, Default)]
pub struct Overheard {
    header: [u8; MAX_HEADER],
    /// Bytes of a header that is not whole.
    known: usize,
    /// Bytes of a frame that are still to come.
    left: u64,
    mask: Option<[u8; 4]>,
    /// Whether the frame is a part of a message, and no control frame.
    is_data: bool,
    /// Whether the next part is the first one of its message.
    first: bool,
    /// Whether the frame is the last one of its message.
    fin: bool,
    in_message: bool,
}

impl Overheard {
    /// Calls `each` with the parts of messages in bytes that follow those before.
    ///
    /// # Errors
    /// When frames are not as they should be; what follows has no meaning.
    pub fn read(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Part<'_>),
    ) -> Result<(), NoWebSocket> {
        loop {
            while self.left == 0 {
                let whole = self.known >= 2
                    && self.known >= frame::header_length(&self.header[..self.known]);
                if whole {
                    self.begin(&mut each)?;
                    continue;
                }
                let Some((byte, rest)) = bytes.split_first() else {
                    return Ok(());
                };
                self.header[self.known] = *byte;
                self.known += 1;
                bytes = rest;
            }
            let here = usize::try_from(self.left).map_or(bytes.len(), |it| it.min(bytes.len()));
            if here == 0 {
                return Ok(());
            }
            let (payload, rest) = bytes.split_at(here);
            self.payload(payload, &mut each);
            bytes = rest;
        }
    }

    fn begin(&mut self, each: &mut impl FnMut(Part<'_>)) -> Result<(), NoWebSocket> {
        let header = frame::parse(&self.header[..self.known]);
        self.known = 0;
        if header.reserved {
            return Err(NoWebSocket("a frame of an extension"));
        }
        let opcode = header.opcode.ok_or(NoWebSocket("an unknown frame"))?;
        self.is_data = !opcode.is_control();
        self.mask = header.mask;
        self.left = header.length;
        if !self.is_data {
            return match header.fin && header.length <= MAX_CONTROL as u64 {
                true => Ok(()),
                false => Err(NoWebSocket("a control frame that is too long")),
            };
        }
        if self.in_message != (opcode == Opcode::Continuation) {
            return Err(NoWebSocket("a message in the middle of another"));
        }
        self.first |= !self.in_message;
        self.fin = header.fin;
        self.in_message = !header.fin;
        if self.left == 0 {
            each(Part {
                first: std::mem::take(&mut self.first),
                last: self.fin,
                data: &[],
            });
        }
        Ok(())
    }

    /// Bytes of the frame.
    fn payload(&mut self, bytes: &[u8], each: &mut impl FnMut(Part<'_>)) {
        self.left -= bytes.len() as u64;
        if !self.is_data {
            return;
        }
        let ends = self.left == 0 && self.fin;
        let Some(mask) = &mut self.mask else {
            return each(Part {
                first: std::mem::take(&mut self.first),
                last: ends,
                data: bytes,
            });
        };
        let mut left = bytes.len();
        for masked in bytes.chunks(UNMASKED_BYTES) {
            let mut buffer = [0; UNMASKED_BYTES];
            let data = &mut buffer[..masked.len()];
            data.copy_from_slice(masked);
            frame::apply_mask(mask, data);
            left -= masked.len();
            each(Part {
                first: std::mem::take(&mut self.first),
                last: ends && left == 0,
                data,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(opcode: Opcode, fin: bool, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; MAX_HEADER];
        let end = frame::encode(opcode, payload.len(), mask, &mut header);
        header[0] &= if fin { 0xFF } else { 0x7F };
        let mut payload = payload.to_vec();
        if let Some(mut mask) = mask {
            frame::apply_mask(&mut mask, &mut payload);
        }
        [&header[..end], &payload].concat()
    }

    fn messages(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
        let (mut overheard, mut all, mut open) = (Overheard::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            let read = overheard.read(piece, |part| {
                assert_eq!(part.first, open.is_empty() && part.first);
                open.extend_from_slice(part.data);
                if part.last {
                    all.push(std::mem::take(&mut open));
                }
            });
            read.unwrap();
        }
        all
    }

    #[test]
    fn messages_are_whole_wherever_bytes_are_cut() {
        for mask in [None, Some([1, 2, 3, 4])] {
            let long: Vec<u8> = (0..70_000_u32).map(|it| it.to_le_bytes()[0]).collect();
            let frames = [
                frame(Opcode::Binary, true, mask, b""),
                frame(Opcode::Binary, false, mask, b"\x01ab"),
                frame(Opcode::Ping, true, mask, b"not this"),
                frame(Opcode::Continuation, false, mask, b""),
                frame(Opcode::Continuation, true, mask, b"c"),
                frame(Opcode::Text, true, mask, &long),
            ]
            .concat();
            for size in [1, 2, 3, 7, 1000, frames.len()] {
                let read = messages(&frames, size);
                assert_eq!(read, [b"".to_vec(), b"\x01abc".to_vec(), long.clone()]);
            }
        }
    }

    #[test]
    fn what_is_compressed_or_torn_is_no_websocket() {
        let compressed = {
            let mut frame = frame(Opcode::Binary, true, None, b"x");
            frame[0] |= 0x40;
            frame
        };
        let torn = [
            frame(Opcode::Binary, false, None, b"x"),
            frame(Opcode::Binary, true, None, b"x"),
        ]
        .concat();
        for bytes in [
            compressed,
            torn,
            frame(Opcode::Continuation, true, None, b""),
        ] {
            assert!(Overheard::default().read(&bytes, |_| {}).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(bytes: Vec<u8>) {
            let _ = Overheard::default().read(&bytes, |_| {});
        }
    }
}
