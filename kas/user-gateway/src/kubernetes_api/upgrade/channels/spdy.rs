//! Streams of SPDY/3.1: a client opens each with a header `streamType`.

pub(in super::super) mod frames;
pub(in super::super) mod headers;
#[cfg(test)]
pub(in super::super) mod testing;

use audit::Stream;

use super::{Passed, Sizes, Unreadable};
use frames::{Frames, Piece};
use headers::Headers;

/// Streams of a session, at most; exec has five.
const MAX_STREAMS: usize = 16;

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
    headers: Headers,
    streams: Vec<(u32, Kind)>,
    sizes: Sizes,
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
    headers: &mut Headers,
    streams: &mut Vec<(u32, Kind)>,
) -> Result<(), Unreadable> {
    let Some((stream, kind)) = headers.read(frame_kind, frame)? else {
        return Ok(());
    };
    let kind = match &kind[..] {
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

#[cfg(test)]
mod tests {
    use super::{
        frames::MAX_FRAME_BYTES,
        headers::{MAX_BLOCK_BYTES, dictionary},
        *,
    };
    use flate2::{Compress, Compression};
    use proptest::prelude::*;
    use testing::{Client, data, frame};

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
