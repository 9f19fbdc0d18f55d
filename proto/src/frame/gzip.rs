//! One gzip member, whole: gRPC compresses message by message.

use std::{cell::RefCell, io::Read};

use bytes::Bytes;
use flate2::{Crc, Decompress, FlushDecompress, Status, read::GzDecoder};

use super::FrameError;

/// How a member begins that has no optional fields, as Go, zlib and flate2 write it.
const PLAIN: [u8; 4] = [0x1f, 0x8b, 8, 0];
const HEADER: usize = 10;
const TRAILER: usize = 8;
/// deflate makes nothing shorter than this part of it.
const MOST: usize = 1032;
/// Bytes that are made room for at once, because the trailer says that so many come: about what one DATA frame's
/// worth of an agent's answer inflates to. The room for more grows as they come.
const AT_ONCE: usize = 64 << 10;

thread_local! {
    /// To set one up costs more than a message of a few KiB, of which an agent's answer has five.
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// What the member holds, if it is no more than `limit` bytes.
pub(super) fn gunzip(member: &[u8], limit: usize) -> Result<Bytes, FrameError> {
    if !member.starts_with(&PLAIN) {
        return gunzip_any(member, limit);
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
    within_limit(length, limit)?;
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
    let most = length + 1;
    let mut plain = Vec::with_capacity(most.min(AT_ONCE));
    let (status, rest) = INFLATE.with_borrow_mut(|inflate| {
        inflate.reset(false);
        loop {
            let rest = |inflate: &Decompress| {
                let read = usize::try_from(inflate.total_in()).unwrap_or(usize::MAX);
                deflated.get(read..).unwrap_or_default()
            };
            let before = rest(inflate);
            let status = inflate.decompress_vec(before, &mut plain, FlushDecompress::Finish);
            let full = plain.len() == plain.capacity() && plain.len() < most;
            match status {
                Ok(Status::Ok | Status::BufError) if full => {
                    plain.reserve_exact(plain.len().min(most - plain.len()));
                }
                status => return (status, rest(inflate)),
            }
        }
    });
    match status {
        // The trailer comes right behind, with nothing between.
        Ok(Status::StreamEnd) if plain.len() == length && rest.is_empty() => Ok(plain),
        Ok(Status::StreamEnd | Status::Ok | Status::BufError) | Err(_) => Err(FrameError::BadGzip),
    }
}

/// The same for members with names, comments and the like.
fn gunzip_any(member: &[u8], limit: usize) -> Result<Bytes, FrameError> {
    let mut plain = Vec::new();
    GzDecoder::new(member)
        .take(limit as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|_| FrameError::BadGzip)?;
    within_limit(plain.len(), limit)?;
    Ok(plain.into())
}

fn within_limit(length: usize, limit: usize) -> Result<(), FrameError> {
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
    use crate::frame::MAX_MESSAGE;

    fn gunzip(member: &[u8]) -> Result<Bytes, FrameError> {
        super::gunzip(member, MAX_MESSAGE)
    }

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
    fn a_member_with_bytes_before_its_trailer_is_refused() {
        let mut member = gzip(GzBuilder::new(), b"hello, hello, hello");
        member.insert(member.len() - TRAILER, 0);
        assert_eq!(gunzip(&member), Err(FrameError::BadGzip));
    }

    #[test]
    fn long_ones_come_out_whole_though_room_is_made_as_they_come() {
        for length in [AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 5 * AT_ONCE + 3, 3 << 20] {
            let mut state = 1_u32;
            let noise = std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 28) as u8
            });
            let plain: Vec<u8> = noise.take(length).collect();

            let member = gzip(GzBuilder::new(), &plain);

            assert!(gunzip(&member).unwrap() == plain, "{length}");
            assert!(super::gunzip(&member, length - 1).is_err());
        }
    }

    #[test]
    fn a_length_that_no_deflate_reaches_costs_no_memory() {
        let mut member = gzip(GzBuilder::new(), b"hello");
        let place = member.len() - 4;
        member[place..].copy_from_slice(&(MAX_MESSAGE as u32).to_le_bytes());

        assert_eq!(gunzip(&member), Err(FrameError::BadGzip));
    }
}
