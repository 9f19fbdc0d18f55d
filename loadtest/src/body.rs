//! A body in pieces, as both the simulated agents and the HTTP backend send it.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::content;

/// Longest piece: what agentk reads at a time.
const PIECE_BYTES: usize = 32 << 10;

/// What is left to send.
#[derive(Debug)]
pub(crate) enum Body {
    /// The pattern from `offset` on.
    Pattern {
        /// Where the next piece begins.
        offset: u64,
        /// Where the body ends.
        end: u64,
    },
    /// Bytes at hand.
    Pieces(VecDeque<Bytes>),
}

impl Body {
    /// The first `length` bytes of the pattern.
    pub(crate) fn pattern(length: u64) -> Self {
        Self::Pattern {
            offset: 0,
            end: length,
        }
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Pattern { offset, end } => end - offset,
            Self::Pieces(pieces) => pieces.iter().map(|piece| piece.len() as u64).sum(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Pieces(VecDeque::from([bytes]))
    }
}

impl Iterator for Body {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Pattern { offset, end } => {
                let length = usize::try_from(*end - *offset)
                    .map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
                let piece = content::pattern(*offset, length);
                *offset += length as u64;
                (length > 0).then_some(piece)
            }
            Self::Pieces(pieces) => {
                let first = pieces.front_mut()?;
                if first.len() <= PIECE_BYTES {
                    return pieces.pop_front();
                }
                Some(first.split_to(PIECE_BYTES))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up_to_the_body() {
        for length in [0, 1, 32_768, 100_000] {
            let mut offset = 0;
            for piece in Body::pattern(length) {
                assert!(content::is_pattern(offset, &piece));
                offset += piece.len() as u64;
            }
            assert_eq!(offset, length);
        }
    }

    #[test]
    fn long_bytes_are_cut() {
        let whole = content::json(100_000);

        let pieces: Vec<_> = Body::from(whole.clone()).collect();

        assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
        assert_eq!(pieces.concat(), whole);
    }
}
