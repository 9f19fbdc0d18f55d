//! Where frames begin and end of a WebSocket that is passed on and not read: only there somebody else may say
//! something.

use super::frame::{self, MAX_HEADER, Opcode};

/// How far a stream of frames has been passed on.
#[derive(Debug, Default)]
pub struct Passing {
    header: [u8; MAX_HEADER],
    /// Bytes of a header that is not whole.
    known: usize,
    /// Bytes of a frame that are still to come.
    left: u64,
    in_message: bool,
    /// Whether the frame is a part of a message.
    is_data: bool,
    /// The next byte is the first one of a message.
    opens: bool,
    watched: Option<u8>,
    met: bool,
    closed: bool,
}

impl Passing {
    /// Notes, besides, whether a message begins with this byte.
    #[must_use]
    pub fn watching(first: Option<u8>) -> Self {
        Self {
            watched: first,
            ..Self::default()
        }
    }

    /// Whether a message began with the byte that is watched for.
    #[must_use]
    pub fn has_met(&self) -> bool {
        self.met
    }

    /// Whether the end was said, behind which nothing may follow.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether all frames that were begun are whole.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.known == 0 && self.left == 0
    }

    /// Whether a message goes on in the next frame, so that none may be put between.
    #[must_use]
    pub fn is_within_message(&self) -> bool {
        self.in_message
    }

    /// Notes bytes that are passed on.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.pass_in_frame(bytes);
            bytes = &bytes[taken..];
        }
    }

    /// Notes bytes that are passed on up to the end of a frame; says how many these are.
    pub fn pass_in_frame(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if self.left == 0 {
            while self.known < 2 || self.known < frame::header_length(&self.header[..self.known]) {
                let Some(byte) = bytes.get(taken) else {
                    return taken;
                };
                self.header[self.known] = *byte;
                self.known += 1;
                taken += 1;
            }
            let header = frame::parse(&self.header[..self.known]);
            self.opens |= matches!(header.opcode, Some(Opcode::Text | Opcode::Binary));
            self.closed |= header.opcode == Some(Opcode::Close);
            self.is_data = header.opcode.is_some_and(|opcode| !opcode.is_control());
            if self.is_data {
                self.in_message = !header.fin;
            }
            (self.known, self.left) = (0, header.length);
        }
        let rest = bytes.len() - taken;
        let more = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
        if more > 0 && self.is_data && std::mem::take(&mut self.opens) {
            self.met |= self.watched == Some(bytes[taken]);
        }
        self.left -= more as u64;
        taken + more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_frames_are_found_wherever_bytes_are_cut() {
        let frame = |opcode, length: usize, fin: bool| {
            let mut header = [0; MAX_HEADER];
            let end = frame::encode(opcode, length, None, &mut header);
            header[0] &= if fin { 0xFF } else { 0x7F };
            [&header[..end], &vec![0x82; length][..]].concat()
        };
        let frames = [
            frame(Opcode::Binary, 3, true),
            frame(Opcode::Ping, 0, true),
            frame(Opcode::Text, 200, false),
            frame(Opcode::Pong, 1, true),
            frame(Opcode::Continuation, 70_000, true),
        ];
        let within = [false, false, true, true, false];
        let ends = frames.iter().scan(0, |end, frame| {
            *end += frame.len();
            Some(*end)
        });
        let ends: Vec<_> = ends.collect();
        let all = frames.concat();
        for size in [1, 2, 3, 7, 100, all.len()] {
            let (mut passing, mut at) = (Passing::default(), 0);
            while at < all.len() {
                let chunk = &all[at..all.len().min(at + size)];
                let taken = passing.pass_in_frame(chunk);
                assert!(taken > 0);
                at += taken;
                let end = ends.iter().position(|end| *end == at);
                assert_eq!(passing.is_between_frames(), end.is_some(), "{at} of {size}");
                if let Some(end) = end {
                    assert_eq!(passing.is_within_message(), within[end]);
                }
            }
        }
        let mut passing = Passing::default();
        passing.pass(&all);
        assert!(passing.is_between_frames() && !passing.is_closed());
    }

    #[test]
    fn the_first_byte_of_a_message_is_met_and_no_other() {
        let frame = |opcode, payload: &[u8], fin: bool| {
            let mut header = [0; MAX_HEADER];
            let end = frame::encode(opcode, payload.len(), None, &mut header);
            header[0] &= if fin { 0xFF } else { 0x7F };
            [&header[..end], payload].concat()
        };
        let others = [
            frame(Opcode::Binary, &[1, 3], true),
            frame(Opcode::Ping, &[3], true),
            frame(Opcode::Binary, &[2], false),
            frame(Opcode::Continuation, &[3], true),
            frame(Opcode::Binary, &[], false),
            frame(Opcode::Ping, &[3], true),
        ];
        let watched = frame(Opcode::Continuation, &[3, 9], true);
        for size in [1, 2, 100] {
            let mut passing = Passing::watching(Some(3));
            others.concat().chunks(size).for_each(|it| passing.pass(it));
            assert!(!passing.has_met(), "{size}");
            watched.chunks(size).for_each(|it| passing.pass(it));
            assert!(passing.has_met() && !passing.is_closed(), "{size}");
            let close = frame(Opcode::Close, &[3, 0xE8], true);
            close.chunks(size).for_each(|it| passing.pass(it));
            assert!(passing.is_closed(), "{size}");
        }
    }
}
