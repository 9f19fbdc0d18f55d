//! The filter of `:authority`, against another implementation of HPACK.

use fluke_hpack::Decoder;
use http::uri::Authority;
use runtime::fuzzing::authority_filter;

use crate::{
    Bound, Long, Target, cut, nobody,
    wire::{Connection, read_all},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
/// Longer blocks are not compared: the other decoder takes a millisecond for each text in Huffman's code.
const COMPARED_BYTES: usize = 2 << 10;

/// Frames, behind the preface.
pub(crate) const AUTHORITY: Target = Target {
    name: "http2_authority",
    decode: |input| {
        let (piece, frames) = cut(input);
        filtered(frames, piece).0.len()
    },
    compare: nobody,
    // A text in Huffman's code may be written out: five bits of it are a byte at least.
    output: Bound::per_byte(2, 64),
    memory: Bound::per_byte(16, 512 << 10),
    long: &[
        Long(
            b"\xff\0\0\0\x01\0\0\0\0\x01",
            b"\0\0\0\x09\0\0\0\0\x01",
            b"",
        ),
        Long(b"\xff", b"\0\0\x0a\x01\x04\0\0\0\x01\x01\x08wss:%2Fx", b""),
        Long(b"\0", b"\0\0\x0a\x01\x04\0\0\0\x01\x01\x08wss:%2Fx", b""),
        Long(b"\xff\0\xff\xff\x01\x04\0\0\0\x01", b"\x01\x01:", b""),
        Long(b"\xff", b"\0\0\x04\x01\x04\0\0\0\x01\x01\x82\0\0", b""),
    ],
};

/// One header block, in frames of the length that the first byte says.
pub(crate) const HPACK: Target = Target {
    name: "hpack",
    decode: |input| {
        let (piece, block) = cut(input);
        filtered(&frames(block, piece), 8 << 10).0.len()
    },
    compare: compare_blocks,
    output: Bound::per_byte(20, 64),
    memory: Bound::per_byte(64, 512 << 10),
    long: &[
        Long(b"\xff", b"\x82", b""),
        Long(b"\xff", b"\x01\x01:", b""),
        Long(b"\xff", b"\x41\x81\x1f", b""),
        Long(b"\0", b"\0\x0a:authority\0", b""),
        Long(b"\xff\x41\x7f\xff\xff\xff\x01", b"\0", b""),
    ],
};

/// What h2 would read.
fn filtered(frames: &[u8], piece: usize) -> (Vec<u8>, std::io::Result<()>) {
    let connection = [PREFACE, frames].concat();
    let filter = authority_filter(Connection::new(&connection, piece));
    let (output, end) = read_all(filter, 8 << 10);
    // Where it breaks, what was read with that is lost.
    let frames = output.strip_prefix(PREFACE);
    assert!(frames.is_some() || end.is_err(), "the preface is gone");
    (frames.unwrap_or_default().to_vec(), end)
}

fn frames(block: &[u8], piece: usize) -> Vec<u8> {
    let pieces: Vec<_> = match block.is_empty() {
        true => vec![block],
        false => block.chunks(piece).collect(),
    };
    let mut frames = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let kind = if at == 0 { 1 } else { 9 };
        let flags = if at + 1 == pieces.len() { 4 } else { 0 };
        let length = u32::try_from(piece.len()).expect("a piece is short");
        frames.extend_from_slice(&length.to_be_bytes()[1..]);
        frames.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
        frames.extend_from_slice(piece);
    }
    frames
}

/// A block that can be decoded can be decoded behind the filter too, to the same fields but for authorities that are
/// none, which are as long as they were.
fn compare_blocks(input: &[u8]) {
    let (piece, block) = cut(input);
    let (output, end) = filtered(&frames(block, piece), 8 << 10);
    // The other decoder panics where the size of a table does not end, which this byte begins.
    if block.len() > COMPARED_BYTES || block.contains(&0x3f) {
        return;
    }
    let Ok(fields) = Decoder::new().decode(block) else {
        return;
    };
    end.expect("a short block is not refused");
    let mut filtered = Vec::new();
    let mut rest = &output[..];
    while let Some(header) = rest.first_chunk::<FRAME_HEADER>() {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        filtered.extend_from_slice(&rest[FRAME_HEADER..FRAME_HEADER + length]);
        rest = &rest[FRAME_HEADER + length..];
    }
    let seen = Decoder::new().decode(&filtered);
    let seen = seen.expect("the filter breaks no block");
    assert_eq!(seen.len(), fields.len());
    for ((name, value), (seen_name, seen_value)) in fields.iter().zip(&seen) {
        assert_eq!(name, seen_name);
        if value == seen_value {
            continue;
        }
        assert_eq!(name, b":authority");
        assert!(
            Authority::try_from(&value[..]).is_err(),
            "it was acceptable"
        );
        assert!(
            Authority::try_from(&seen_value[..]).is_ok(),
            "it is still not"
        );
        assert_eq!(value.len(), seen_value.len());
    }
}
