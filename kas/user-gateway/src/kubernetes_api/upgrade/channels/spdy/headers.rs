//! Header blocks of one side: one stream of zlib with a dictionary that the protocol knows (SPDY/3, 2.6.10.1).

use flate2::{Decompress, FlushDecompress, Status};

use super::frames::SYN_STREAM;
use crate::kubernetes_api::upgrade::channels::Unreadable;

/// Bytes of a header block, at most.
pub(super) const MAX_BLOCK_BYTES: usize = 64 << 10;
/// The name of the header, which is in lower case.
const STREAM_TYPE: &[u8] = b"streamtype";

/// Words of the dictionary, each with its length before it.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
keep-alive origin";
/// What follows them.
const PHRASES: &str = "1001012012022052063003023033043053063074024054064074084094104114124134144154164175025045052\
03 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct \
Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
utf-,*,enq=0.";

/// Reads the header blocks of one side, of which each is needed for the next. It takes its memory (about 40 KiB) with the
/// first.
#[derive(Debug, Default)]
pub(crate) struct Headers(Option<Decompress>);

impl Headers {
    /// Reads a frame with headers, of this kind: the stream that it opens, and the type that it gives it, which is empty
    /// where it gives none.
    pub(crate) fn read(
        &mut self,
        kind: u16,
        frame: &[u8],
    ) -> Result<Option<(u32, Vec<u8>)>, Unreadable> {
        const SHORT: Unreadable = Unreadable("a frame that is too short");
        let (stream, block) = frame.split_first_chunk().ok_or(SHORT)?;
        let stream = u32::from_be_bytes(*stream) & 0x7FFF_FFFF;
        // Behind the stream: one that it belongs to, priority and slot.
        let block = match kind {
            SYN_STREAM => block.get(6..).ok_or(SHORT)?,
            _ => block,
        };
        let zlib = self.0.get_or_insert_with(|| Decompress::new(true));
        let block = inflate(zlib, block)?;
        if kind != SYN_STREAM {
            return Ok(None);
        }
        let kind = stream_type(&block).ok_or(SHORT)?;
        Ok(Some((stream, kind.to_vec())))
    }
}

/// The value of the header that names a stream; empty where there is none.
fn stream_type(mut block: &[u8]) -> Option<&[u8]> {
    let mut number = || -> Option<usize> {
        let (number, rest) = block.split_first_chunk()?;
        block = rest;
        usize::try_from(u32::from_be_bytes(*number)).ok()
    };
    let mut left = number()?;
    let mut rest = block;
    let mut text = || -> Option<&[u8]> {
        let (length, behind) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (text, behind) = behind.split_at_checked(length)?;
        rest = behind;
        Some(text)
    };
    while left > 0 {
        let (name, value) = (text()?, text()?);
        if name.eq_ignore_ascii_case(STREAM_TYPE) {
            return value.split(|byte| *byte == 0).next();
        }
        left -= 1;
    }
    Some(&[])
}

fn inflate(zlib: &mut Decompress, mut block: &[u8]) -> Result<Vec<u8>, Unreadable> {
    const BROKEN: Unreadable = Unreadable("headers of a stream that cannot be decompressed");
    let mut inflated = Vec::with_capacity(1 << 10);
    loop {
        let (before, made) = (zlib.total_in(), inflated.len());
        let status = zlib.decompress_vec(block, &mut inflated, FlushDecompress::Sync);
        let taken = usize::try_from(zlib.total_in() - before).map_err(|_| BROKEN)?;
        block = block.get(taken..).ok_or(BROKEN)?;
        match status {
            Err(error) if error.needs_dictionary().is_some() => {
                zlib.set_dictionary(&dictionary()).map_err(|_| BROKEN)?;
                continue;
            }
            Err(_) | Ok(Status::StreamEnd) => return Err(BROKEN),
            Ok(Status::Ok | Status::BufError) => {}
        }
        if inflated.len() < inflated.capacity() || (taken == 0 && inflated.len() == made) {
            return match block.is_empty() {
                true => Ok(inflated),
                false => Err(BROKEN),
            };
        }
        if inflated.len() >= MAX_BLOCK_BYTES {
            return Err(Unreadable("headers of a stream that are too long"));
        }
        inflated.reserve(inflated.len());
    }
}

pub(super) fn dictionary() -> Vec<u8> {
    let mut all = Vec::new();
    for word in WORDS.split(' ') {
        let word = word.replace('_', " ");
        let length = u32::try_from(word.len()).unwrap_or_default();
        all.extend_from_slice(&length.to_be_bytes());
        all.extend_from_slice(word.as_bytes());
    }
    all.extend_from_slice(PHRASES.as_bytes());
    all
}
