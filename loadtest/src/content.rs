//! Bodies that both ends can compute: each byte follows from its offset, so
//! that a lost, doubled or swapped piece shows, at the cost of a comparison.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};

/// Longest piece that [`pattern`] gives.
pub(crate) const MAX_PIECE_BYTES: usize = 64 << 10;
/// Longest body that [`json`] makes.
pub(crate) const MAX_JSON_BYTES: usize = 1 << 20;
/// Shortest body that [`json`] makes.
pub(crate) const MIN_JSON_BYTES: usize = HEAD.len() + TAIL.len();

/// A prime, so that pieces of round sizes never repeat.
const PATTERN_BYTES: usize = 65_521;
const HEAD: &[u8] = br#"{"kind":"LoadTest","apiVersion":"v1","text":""#;
const TAIL: &[u8] = br#""}"#;

static NOISE: LazyLock<Bytes> = LazyLock::new(|| noise(PATTERN_BYTES + MAX_PIECE_BYTES));
static LETTERS: LazyLock<Bytes> = LazyLock::new(letters);

/// Up to `length` bytes of the endless pattern from `offset` on, not copied.
/// The pattern cannot be compressed.
pub(crate) fn pattern(offset: u64, length: usize) -> Bytes {
    let start = usize::try_from(offset % PATTERN_BYTES as u64).expect("below the period");
    NOISE.slice(start..start + length.min(MAX_PIECE_BYTES))
}

/// Whether `bytes` are those of the pattern at `offset`.
pub(crate) fn is_pattern(mut offset: u64, bytes: &[u8]) -> bool {
    bytes.chunks(MAX_PIECE_BYTES).all(|piece| {
        let same = pattern(offset, piece.len()) == piece;
        offset += piece.len() as u64;
        same
    })
}

/// A JSON object of `length` bytes, within the limits of this file.
pub(crate) fn json(length: usize) -> Bytes {
    let length = length.clamp(MIN_JSON_BYTES, MAX_JSON_BYTES);
    let mut body = BytesMut::with_capacity(length);
    body.extend_from_slice(HEAD);
    body.extend_from_slice(&LETTERS[..length - MIN_JSON_BYTES]);
    body.extend_from_slice(TAIL);
    body.freeze()
}

fn noise(length: usize) -> Bytes {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state >> 56).expect("eight bits are left")
    };
    let period: Vec<u8> = (0..PATTERN_BYTES).map(|_| step()).collect();
    period.iter().copied().cycle().take(length).collect()
}

fn letters() -> Bytes {
    let letter = |byte: u8| b'a' + byte % 26;
    NOISE
        .iter()
        .copied()
        .cycle()
        .map(letter)
        .take(MAX_JSON_BYTES)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_is_the_same_however_it_is_cut() {
        let whole: Vec<u8> = (0..10)
            .flat_map(|piece| pattern(piece * 40_000, 40_000))
            .collect();

        for cut in [1, 100, 65_536, 70_000, 200_000] {
            let (first, rest) = whole.split_at(cut);
            assert!(is_pattern(0, first) && is_pattern(cut as u64, rest));
        }
    }

    #[test]
    fn swapped_and_shifted_pieces_are_noticed() {
        assert!(!is_pattern(0, &pattern(32_768, 32_768)));
        assert!(!is_pattern(1, &pattern(0, 100)));
    }

    #[test]
    fn json_is_json_of_the_wanted_length() {
        for length in [MIN_JSON_BYTES, 100, 4096, MAX_JSON_BYTES] {
            let body = json(length);

            assert_eq!(body.len(), length);
            assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
        }
    }
}
