//! The layout of WebSocket frames (RFC 6455 section 5). Pure.

/// Longest header: two bytes, eight of length, four of mask.
pub(super) const MAX_HEADER: usize = 14;
/// Longest payload of a control frame.
pub(super) const MAX_CONTROL: usize = 125;

/// Close code: done.
pub(super) const NORMAL: u16 = 1000;
/// Close code: leaving, for example a server that shuts down.
pub(super) const GOING_AWAY: u16 = 1001;
/// Close code: the peer broke the protocol.
pub(super) const PROTOCOL_ERROR: u16 = 1002;
/// Close code: the peer sent something else than binary messages.
pub(super) const UNSUPPORTED: u16 = 1003;
/// What is reported for a close frame without a code; never sent.
pub(super) const NO_CODE: u16 = 1005;
/// Close code: the message is longer than what is accepted.
pub(super) const TOO_BIG: u16 = 1009;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn parse(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) fin: bool,
    /// `None` for one that is not defined.
    pub(super) opcode: Option<Opcode>,
    pub(super) reserved: bool,
    pub(super) mask: Option<[u8; 4]>,
    pub(super) length: u64,
}

/// How long the header is that starts with these bytes; at least two are
/// needed to know.
pub(super) fn header_length(bytes: &[u8]) -> usize {
    let Some(&[_, second]) = bytes.first_chunk::<2>() else {
        return 2;
    };
    let extended = match second & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    2 + extended + mask
}

/// Reads a complete header.
pub(super) fn parse(header: &[u8]) -> Header {
    let masked = header[1] & 0x80 != 0;
    let (fields, mask) = match header.split_last_chunk::<4>() {
        Some((fields, mask)) if masked => (fields, Some(*mask)),
        _ => (header, None),
    };
    let length = match &fields[2..] {
        [] => u64::from(header[1] & 0x7F),
        extended => extended
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    Header {
        fin: header[0] & 0x80 != 0,
        opcode: Opcode::parse(header[0] & 0x0F),
        reserved: header[0] & 0x70 != 0,
        mask,
        length,
    }
}

/// Writes the header of an unfragmented frame; returns its length.
pub(super) fn encode(
    opcode: Opcode,
    length: usize,
    mask: Option<[u8; 4]>,
    header: &mut [u8; MAX_HEADER],
) -> usize {
    header[0] = 0x80 | opcode.bits();
    let mut end = match u16::try_from(length) {
        Ok(short @ 0..126) => {
            header[1] = u8::try_from(short).expect("it is below 126");
            2
        }
        Ok(medium) => {
            header[1] = 126;
            header[2..4].copy_from_slice(&medium.to_be_bytes());
            4
        }
        Err(_) => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            10
        }
    };
    if let Some(mask) = mask {
        header[1] |= 0x80;
        header[end..end + 4].copy_from_slice(&mask);
        end += 4;
    }
    end
}

/// Masks or unmasks in place, and turns the mask so that it fits what follows.
pub(super) fn apply_mask(mask: &mut [u8; 4], bytes: &mut [u8]) {
    if *mask == [0; 4] {
        return;
    }
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(bytes.len() % 4);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_are_read_as_they_were_written(
            length in prop_oneof![0usize..300, 65_530usize..65_540, Just(10 << 20)],
            mask in proptest::option::of(any::<[u8; 4]>()),
        ) {
            let mut bytes = [0; MAX_HEADER];

            let end = encode(Opcode::Binary, length, mask, &mut bytes);

            prop_assert_eq!(header_length(&bytes[..2]), end);
            let header = parse(&bytes[..end]);
            prop_assert_eq!(header, Header {
                fin: true,
                opcode: Some(Opcode::Binary),
                reserved: false,
                mask,
                length: length as u64,
            });
        }

        #[test]
        fn a_mask_goes_on_where_it_stopped(bytes: Vec<u8>, key: [u8; 4], cut: prop::sample::Index) {
            let mut expected = bytes.clone();
            for (at, byte) in expected.iter_mut().enumerate() {
                *byte ^= key[at % 4];
            }
            let mut masked = bytes;
            let (first, second) = {
                let cut = cut.index(masked.len() + 1);
                masked.split_at_mut(cut)
            };

            let mut mask = key;
            apply_mask(&mut mask, first);
            apply_mask(&mut mask, second);

            prop_assert_eq!(masked, expected);
        }
    }
}
