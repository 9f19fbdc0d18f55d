//! What comes before and inside HTTP/2: connections in memory, gRPC's frames with gzip, PROXY headers.

use std::{
    io::{self, Read},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use futures_util::FutureExt;
use proto::frame::{Deframer, Encoding, MAX_MESSAGE};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::{Bound, Long, Target, cut, nobody};

/// A connection whose other end has sent all that it will send.
pub(crate) struct Connection<'i> {
    left: &'i [u8],
    piece: usize,
    /// What was sent to the other end.
    pub(crate) sent: Vec<u8>,
}

impl<'i> Connection<'i> {
    /// One that is read in pieces of this many bytes at most.
    pub(crate) fn new(input: &'i [u8], piece: usize) -> Self {
        Self {
            left: input,
            piece,
            sent: Vec::new(),
        }
    }
}

impl AsyncRead for Connection<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let length = this.left.len().min(this.piece).min(buf.remaining());
        let (read, left) = this.left.split_at(length);
        buf.put_slice(read);
        this.left = left;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().sent.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a future gives that waits for nothing but a [`Connection`].
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let given = future.now_or_never();
    given.expect("it waits for nobody, since all is here")
}

/// All that can be read, and how it ended.
pub(crate) fn read_all(mut io: impl AsyncRead + Unpin, step: usize) -> (Vec<u8>, io::Result<()>) {
    let (mut all, mut buffer) = (Vec::new(), vec![0; step]);
    loop {
        match now(io.read(&mut buffer)) {
            Ok(0) => return (all, Ok(())),
            Ok(read) => all.extend_from_slice(&buffer[..read]),
            Err(error) => return (all, Err(error)),
        }
    }
}

/// Messages, the encoding of which is in the lowest bit of the first byte.
pub(crate) const GRPC_FRAMES: Target = Target {
    name: "grpc_frames",
    decode: |input| deframe(input, |_| {}),
    compare: compare_frames,
    // What deflate can make of a byte.
    output: Bound::per_byte(1032, 64),
    // What is unfolded, in room that grows to twice of it while the room before is still there.
    memory: Bound {
        per_byte: 3200,
        base: 128 << 10,
        most: 32 << 20,
    },
    long: &[
        Long(b"\xff", b"\0\0\0\0\0", b""),
        Long(b"\0", b"\0\0\0\0\x01x", b""),
        Long(b"\x01\x01\0\x3f\0\0\x1f\x8b\x08\0", b"\0", b""),
        Long(
            b"\x01",
            b"\x01\0\0\0\x14\x1f\x8b\x08\0\0\0\0\0\0\xff\x03\0\0\0\0\0\0\0\0\0",
            b"",
        ),
    ],
};

fn encoding(input: &[u8]) -> Encoding {
    match input.first() {
        Some(first) if first & 1 == 1 => Encoding::Gzip,
        Some(_) | None => Encoding::Identity,
    }
}

fn deframe(input: &[u8], mut see: impl FnMut(&[u8])) -> usize {
    let (piece, data) = cut(input);
    let mut deframer = Deframer::new(encoding(input));
    let mut output = 0;
    for chunk in data.chunks(piece) {
        deframer.push(Bytes::copy_from_slice(chunk));
        loop {
            match deframer.next_message() {
                Ok(Some(message)) => {
                    output += message.len();
                    see(&message);
                }
                Ok(None) => break,
                Err(_) => return output,
            }
        }
    }
    output
}

/// Each message is what flate2 makes of its frame.
fn compare_frames(input: &[u8]) {
    let (_, mut rest) = cut(input);
    deframe(input, |message| {
        let length = u32::from_be_bytes(rest[1..5].try_into().expect("four bytes")) as usize;
        let frame = &rest[5..5 + length];
        match rest[0] {
            0 => assert_eq!(message, frame),
            _ => {
                let mut plain = Vec::new();
                let mut inflated = GzDecoder::new(frame).take(MAX_MESSAGE as u64 + 1);
                inflated
                    .read_to_end(&mut plain)
                    .expect("flate2 takes it too");
                assert_eq!(message, plain);
            }
        }
        rest = &rest[5 + length..];
    });
}

/// The beginning of a connection through a load balancer.
pub(crate) const PROXY_PROTOCOL: Target = Target {
    name: "proxy_protocol",
    decode: proxy_protocol,
    compare: nobody,
    output: Bound::per_byte(1, 16),
    memory: Bound::per_byte(4, 8 << 10),
    long: &[
        Long(b"\xffPROXY TCP4 ", b"1", b""),
        Long(b"\xffPROXY ", b"\r", b"\n"),
        Long(b"\xff\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\0", b"\x04\0\0", b""),
        Long(b"\xff", b"x", b""),
    ],
};

fn proxy_protocol(input: &[u8]) -> usize {
    let (piece, data) = cut(input);
    let mut connection = Connection::new(data, piece);
    match now(runtime::proxy_protocol::read(&mut connection)) {
        Ok((client, seen)) => {
            let read = data.len() - connection.left.len();
            assert!(data[..read].ends_with(&seen), "what follows is lost");
            assert!(
                client.is_none() || seen.len() < read,
                "a client without a header"
            );
            seen.len()
        }
        Err(error) => error.to_string().len().saturating_sub(200),
    }
}
