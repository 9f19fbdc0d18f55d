//! One gzip member, whole: gRPC compresses message by message.

use std::{cell::RefCell, io::Read};

use bytes::Bytes;
use flate2::{Crc, Decompress, FlushDecompress, Status, read::GzDecoder};

use super::{FrameError, MAX_MESSAGE};

/// How a member begins that has no optional fields, as Go, zlib and flate2 write it.
const PLAIN: [u8; 4] = [0x1f, 0x8b, 8, 0];
const HEADER: usize = 10;
const TRAILER: usize = 8;
/// deflate makes nothing shorter than this part of it.
const MOST: usize = 1032;

thread_local! {
    /// To set one up costs more than a message of a few KiB, of which an agent's answer has five.
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// What the member holds.
pub(super) fn gunzip(member: &[u8]) -> Result<Bytes, FrameError> {
    if !member.starts_with(&PLAIN) {
        return gunzip_any(member);
    }
    let deflated = member.get(HEADER..).ok_or(FrameError::BadGzip)?;
    let (deflated, trailer) = deflated
        .split_last_chunk::<TRAILER>()
        .ok_or(FrameError::BadGzip)?;
    let [c0, c1, c2, c3, l0, l1, l2, l3] = *trailer;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length / MOST > deflated.len() {
        return Err(FrameError::BadGzip);
    }
    within_limit(length)?;
    let plain = inflate(deflated, length)?;
    let mut checksum = Crc::new();
    checksum.update(&plain);
    if checksum.sum() != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(FrameError::BadGzip);
    }
    Ok(plain.into())
}

fn inflate(deflated: &[u8], length: usize) -> Result<Vec<u8>, FrameError> {
    // One more, so that a longer one is noticed.
    let mut plain = Vec::with_capacity(length + 1);
    let status = INFLATE.with_borrow_mut(|inflate| {
        inflate.reset(false);
        inflate.decompress_vec(deflated, &mut plain, FlushDecompress::Finish)
    });
    match status {
        Ok(Status::StreamEnd) if plain.len() == length => Ok(plain),
        Ok(Status::StreamEnd | Status::Ok | Status::BufError) | Err(_) => Err(FrameError::BadGzip),
    }
}

/// The same for members with names, comments and the like.
fn gunzip_any(member: &[u8]) -> Result<Bytes, FrameError> {
    let mut plain = Vec::new();
    GzDecoder::new(member)
        .take(MAX_MESSAGE as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|_| FrameError::BadGzip)?;
    within_limit(plain.len())?;
    Ok(plain.into())
}

fn within_limit(length: usize) -> Result<(), FrameError> {
    let limit = MAX_MESSAGE;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, GzBuilder};
    use proptest::prelude::*;

    use super::*;

    fn gzip(builder: GzBuilder, plain: &[u8]) -> Vec<u8> {
        let mut encoder = builder.write(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_out(plain in prop::collection::vec(0..4_u8, 0..3000), named in any::<bool>()) {
            let builder = GzBuilder::new();
            let builder = if named { builder.filename("name").comment("why") } else { builder };

            let member = gzip(builder, &plain);

            prop_assert_eq!(gunzip(&member).unwrap(), plain);
        }

        #[test]
        fn what_was_damaged_is_refused(plain in prop::collection::vec(any::<u8>(), 1..300), place in any::<prop::sample::Index>()) {
            let mut member = gzip(GzBuilder::new(), &plain);
            let place = HEADER + place.index(member.len() - HEADER);
            member[place] ^= 0x55;

            prop_assert!(gunzip(&member).is_err());
        }

        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..300), gzip in any::<bool>()) {
            if gzip {
                bytes.splice(0..bytes.len().min(PLAIN.len()), PLAIN);
            }
            let _ = gunzip(&bytes);
        }
    }

    #[test]
    fn a_member_that_is_cut_short_or_longer_than_it_says_is_refused() {
        let member = gzip(GzBuilder::new(), b"hello, hello, hello");
        for end in 0..member.len() {
            assert_eq!(gunzip(&member[..end]), Err(FrameError::BadGzip), "{end}");
        }
        let mut short = member;
        let place = short.len() - 4;
        short[place] -= 1;
        assert_eq!(gunzip(&short), Err(FrameError::BadGzip));
    }

    #[test]
    fn a_length_that_no_deflate_reaches_costs_no_memory() {
        let mut member = gzip(GzBuilder::new(), b"hello");
        let place = member.len() - 4;
        member[place..].copy_from_slice(&(MAX_MESSAGE as u32).to_le_bytes());

        assert_eq!(gunzip(&member), Err(FrameError::BadGzip));
    }
}
