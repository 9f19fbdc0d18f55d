//! Streams of SPDY/3.1: a client opens each with a header `streamType`.
//!
//! Header blocks of one side are one stream of zlib with a dictionary that the protocol knows (SPDY/3, 2.6.10.1).

use audit::Stream;
use flate2::{Decompress, FlushDecompress, Status};

use super::{Passed, Sizes, Unreadable};

const HEAD_BYTES: usize = 8;
const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const HEADERS: u16 = 8;
/// Bytes of a control frame with headers, at most. Those of exec have a few hundred.
const MAX_FRAME_BYTES: usize = 16 << 10;
/// Bytes of a header block, at most.
const MAX_BLOCK_BYTES: usize = 64 << 10;
/// Streams of a session, at most; exec has five.
const MAX_STREAMS: usize = 16;
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

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Input,
    Output,
    Errors,
    Resize,
    /// How the command has ended, or nothing of a terminal.
    Other,
}

/// Both directions.
#[derive(Debug, Default)]
pub(in super::super) struct Spdy {
    client: Frames,
    server: Frames,
    headers: Option<Decompress>,
    streams: Vec<(u32, Kind)>,
    sizes: Sizes,
}

/// The frames of one direction.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; HEAD_BYTES],
    known: usize,
    /// Bytes of a frame behind its head that are still to come.
    left: usize,
    /// What is here of a control frame that is read.
    control: Vec<u8>,
}

/// Something of a frame.
enum Piece<'a> {
    /// A whole control frame of this type.
    Control(u16, &'a [u8]),
    /// Bytes of a stream.
    Data(u32, &'a [u8]),
}

impl Frames {
    fn read(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Piece<'_>) -> Result<(), Unreadable>,
    ) -> Result<(), Unreadable> {
        while !bytes.is_empty() {
            if self.known < HEAD_BYTES {
                self.head[self.known] = bytes[0];
                self.known += 1;
                bytes = &bytes[1..];
                if self.known < HEAD_BYTES {
                    continue;
                }
                let [.., high, middle, low] = self.head;
                self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.control.clear();
                if self.wanted().is_some() && self.left > MAX_FRAME_BYTES {
                    return Err(Unreadable("headers of a stream that are too long"));
                }
            }
            let here = self.left.min(bytes.len());
            let (payload, rest) = bytes.split_at(here);
            self.left -= here;
            bytes = rest;
            let [a, b, c, d, ..] = self.head;
            if a & 0x80 == 0 {
                each(Piece::Data(u32::from_be_bytes([a, b, c, d]), payload))?;
            } else if let Some(kind) = self.wanted() {
                self.control.extend_from_slice(payload);
                if self.left == 0 {
                    each(Piece::Control(kind, &self.control))?;
                }
            }
            if self.left == 0 {
                self.known = 0;
            }
        }
        Ok(())
    }

    /// The type of a control frame that has headers.
    fn wanted(&self) -> Option<u16> {
        let [a, b, c, d, ..] = self.head;
        let version = u16::from_be_bytes([a & 0x7F, b]);
        let kind = u16::from_be_bytes([c, d]);
        let has_headers = matches!(kind, SYN_STREAM | SYN_REPLY | HEADERS);
        (a & 0x80 != 0 && version == VERSION && has_headers).then_some(kind)
    }
}

impl Spdy {
    pub(super) fn read_sent(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(Passed<'_>),
    ) -> Result<(), Unreadable> {
        let Self {
            client,
            headers,
            streams,
            sizes,
            ..
        } = self;
        client.read(bytes, |piece| match piece {
            Piece::Control(kind, frame) => open(kind, frame, headers, streams),
            Piece::Data(stream, bytes) => match kind_of(streams, stream) {
                Some(Kind::Input) => {
                    each(Passed::Bytes(Stream::Input, bytes));
                    Ok(())
                }
                Some(Kind::Resize) => sizes.take(bytes, each),
                Some(Kind::Output | Kind::Errors | Kind::Other) | None => Ok(()),
            },
        })
    }

    pub(super) fn read_answered(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(Passed<'_>),
    ) -> Result<(), Unreadable> {
        let streams = &self.streams;
        self.server.read(bytes, |piece| match piece {
            // Headers of the server say nothing of what follows.
            Piece::Control(..) => Ok(()),
            Piece::Data(stream, bytes) => match kind_of(streams, stream) {
                Some(Kind::Errors) => {
                    each(Passed::Bytes(Stream::Errors, bytes));
                    Ok(())
                }
                Some(Kind::Output) => {
                    each(Passed::Bytes(Stream::Output, bytes));
                    Ok(())
                }
                Some(Kind::Other | Kind::Input | Kind::Resize) => Ok(()),
                None => Err(Unreadable("bytes of a stream that nobody has opened")),
            },
        })
    }
}

fn kind_of(streams: &[(u32, Kind)], stream: u32) -> Option<Kind> {
    let mut all = streams.iter();
    all.find(|(known, _)| *known == stream)
        .map(|(_, kind)| *kind)
}

/// Reads a frame with headers; one that opens a stream says of which kind it is.
fn open(
    frame_kind: u16,
    frame: &[u8],
    headers: &mut Option<Decompress>,
    streams: &mut Vec<(u32, Kind)>,
) -> Result<(), Unreadable> {
    const SHORT: Unreadable = Unreadable("a frame that is too short");
    let (stream, block) = frame.split_first_chunk().ok_or(SHORT)?;
    let stream = u32::from_be_bytes(*stream) & 0x7FFF_FFFF;
    // Behind the stream: one that it belongs to, priority and slot.
    let block = match frame_kind {
        SYN_STREAM => block.get(6..).ok_or(SHORT)?,
        _ => block,
    };
    // Each block is needed for the next, whatever is in it.
    let block = inflate(headers.get_or_insert_with(|| Decompress::new(true)), block)?;
    if frame_kind != SYN_STREAM {
        return Ok(());
    }
    let kind = match stream_type(&block).ok_or(SHORT)? {
        b"stdin" => Kind::Input,
        b"stdout" => Kind::Output,
        b"stderr" => Kind::Errors,
        b"resize" => Kind::Resize,
        _ => Kind::Other,
    };
    if streams.len() == MAX_STREAMS {
        return Err(Unreadable("too many streams"));
    }
    if kind_of(streams, stream).is_some() {
        return Err(Unreadable("a stream that was opened twice"));
    }
    streams.push((stream, kind));
    Ok(())
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

fn dictionary() -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    /// A client that opens streams.
    struct Client(Compress);

    impl Client {
        fn new() -> Self {
            let mut zlib = Compress::new(Compression::best(), true);
            zlib.set_dictionary(&dictionary()).unwrap();
            Self(zlib)
        }

        fn opens(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
            let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                block.extend(text.as_bytes());
            }
            let mut packed = Vec::with_capacity(block.len() + 1024);
            let flush = FlushCompress::Sync;
            self.0.compress_vec(&block, &mut packed, flush).unwrap();
            let stream = stream.to_be_bytes();
            frame([0x80, 3, 0, 1], &[&stream[..], &[0; 6], &packed].concat())
        }
    }

    fn frame(head: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&head[..], &[0], &length[1..], payload].concat()
    }

    fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
        frame(stream.to_be_bytes(), payload)
    }

    #[test]
    fn the_dictionary_is_that_of_the_protocol() {
        let mut zlib = Compress::new(Compression::best(), true);

        // Adler-32, as in the first header block of every client.
        assert_eq!(zlib.set_dictionary(&dictionary()).unwrap(), 0xE3C6_A7C2);
        assert_eq!(dictionary().len(), 1423);
    }

    #[test]
    fn streams_are_told_apart_wherever_bytes_are_cut() {
        let mut client = Client::new();
        let sent = [
            client.opens(1, &[("streamtype", "error")]),
            client.opens(3, &[("x", "y"), ("streamtype", "stdin")]),
            client.opens(5, &[("streamtype", "stdout")]),
            client.opens(7, &[("streamtype", "resize")]),
            data(7, b"{\"Width\":120,\"Height\":40}\n"),
            frame([0x80, 3, 0, 6], &[0, 0, 0, 1]),
            data(3, b"typed"),
        ]
        .concat();
        let answered = [data(5, b"shown"), data(1, b"status"), data(5, b"")].concat();
        for size in [1, 2, 5, 64, sent.len()] {
            let mut spdy = Spdy::default();
            let (mut typed, mut shown, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
            let mut note = |passed: Passed<'_>| match passed {
                Passed::Bytes(Stream::Input, bytes) => typed.extend_from_slice(bytes),
                Passed::Bytes(_, bytes) => shown.extend_from_slice(bytes),
                Passed::Size(columns, rows) => sizes.push((columns, rows)),
            };
            for piece in sent.chunks(size) {
                spdy.read_sent(piece, &mut note).unwrap();
            }
            for piece in answered.chunks(size) {
                spdy.read_answered(piece, &mut note).unwrap();
            }
            assert_eq!((&*typed, &*shown), (&b"typed"[..], &b"shown"[..]));
            assert_eq!(sizes, [(120, 40)]);
        }
    }

    #[test]
    fn headers_are_not_inflated_without_a_bound() {
        let mut client = Client::new();
        let long = "a".repeat(MAX_BLOCK_BYTES * 4);
        let bomb = client.opens(1, &[("x", &long)]);
        assert!(bomb.len() < MAX_FRAME_BYTES);

        let read = Spdy::default().read_sent(&bomb, &mut |_| {});

        assert_eq!(
            read,
            Err(Unreadable("headers of a stream that are too long"))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(bytes: Vec<u8>, first: bool) {
            let mut spdy = Spdy::default();
            let head: &[u8] = if first { &[0x80, 3, 0, 1] } else { &[] };
            let bytes = [head, &bytes].concat();
            let _ = spdy.read_sent(&bytes, &mut |_| {});
            let _ = spdy.read_answered(&bytes, &mut |_| {});
        }
    }
}
