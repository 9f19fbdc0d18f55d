//! Where a body in chunks ends. Pure.

/// Where in a body the input stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// The number read so far, and whether its digits are over.
    Size(u64, bool),
    /// So much of a chunk is to come.
    Data(u64),
    /// The end of the line behind the data.
    End,
    /// Bytes of a trailer line so far.
    Trailer(usize),
}

impl Default for Chunk {
    fn default() -> Self {
        Self::Size(0, false)
    }
}

impl Chunk {
    /// How many bytes belong to the body, and whether that is its end.
    pub(super) fn walk(&mut self, input: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < input.len() {
            if let Self::Data(left) = self {
                let rest = u64::try_from(input.len() - at).expect("a length has 64 bits");
                let passed = rest.min(*left);
                at += usize::try_from(passed).expect("at most the input");
                *left -= passed;
                if *left == 0 {
                    *self = Self::End;
                }
                continue;
            }
            let byte = input[at];
            at += 1;
            if *self == Self::Trailer(0) && byte == b'\n' {
                return (at, true);
            }
            *self = self.next(byte);
        }
        (at, false)
    }

    fn next(self, byte: u8) -> Self {
        match self {
            Self::Size(0, _) if byte == b'\n' => Self::Trailer(0),
            Self::Size(size, _) if byte == b'\n' => Self::Data(size),
            Self::Size(size, false) => match char::from(byte).to_digit(16) {
                Some(digit) => {
                    let size = size.saturating_mul(16).saturating_add(u64::from(digit));
                    Self::Size(size, false)
                }
                None => Self::Size(size, true),
            },
            Self::End if byte == b'\n' => Self::default(),
            Self::Trailer(_) if byte == b'\n' => Self::Trailer(0),
            Self::Trailer(seen) if byte != b'\r' => Self::Trailer(seen.saturating_add(1)),
            same @ (Self::Size(..) | Self::Data(_) | Self::End | Self::Trailer(_)) => same,
        }
    }
}
