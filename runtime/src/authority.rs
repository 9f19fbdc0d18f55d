//! Makes the `:authority` of Go's gRPC over WebSocket acceptable to h2.
//!
//! grpc-go derives `:authority` from the whole WebSocket URL and sends, for
//! example, `wss:%2F%2Fkas.example.com%2F-%2Fkubernetes-agent%2F`. That is not
//! a URI authority, so h2 would reset every call. [`Filter`] sits between the
//! byte stream and h2: it walks the frames, looks only into header blocks, and
//! replaces such a value by a valid one of the same length. Equal lengths keep
//! the dynamic tables of both sides equal in size, so that later references
//! to the entry stay right.

mod filter;
mod hpack;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use filter::{Filter, HeadersTooLong, Step};

/// A byte stream whose reading side passes through a [`Filter`].
#[derive(Debug)]
pub struct AuthorityFilter<S> {
    inner: S,
    filter: Filter,
    /// What must be read before anything else: output that was longer than
    /// its input. Boxed, for it is hardly ever there.
    overflow: Option<Box<Overflow>>,
}

#[derive(Debug)]
struct Overflow {
    bytes: Vec<u8>,
    read: usize,
}

impl<S> AuthorityFilter<S> {
    /// Filters an HTTP/2 connection from its very first byte.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            filter: Filter::new(),
            overflow: None,
        }
    }

    fn read_overflow(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let Some(overflow) = &mut self.overflow else {
            return false;
        };
        let rest = &overflow.bytes[overflow.read..];
        let taken = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..taken]);
        overflow.read += taken;
        if overflow.read == overflow.bytes.len() {
            self.overflow = None;
        }
        true
    }

    /// Filters `bytes` in place; how many of them are to be read. What does
    /// not fit becomes overflow.
    fn filter(&mut self, bytes: &mut [u8]) -> Result<usize, HeadersTooLong> {
        let (mut read, mut kept) = (0, 0);
        let mut output = Vec::new();
        while read < bytes.len() {
            match self.filter.step(&bytes[read..], &mut output)? {
                Step::Pass(length) => {
                    let range = read..read + length;
                    if output.is_empty() {
                        bytes.copy_within(range, kept);
                        kept += length;
                    } else {
                        output.extend_from_slice(&bytes[range]);
                    }
                    read += length;
                }
                Step::Take(length) => read += length,
            }
            if output.len() <= read - kept {
                bytes[kept..kept + output.len()].copy_from_slice(&output);
                kept += output.len();
                output.clear();
            }
        }
        if !output.is_empty() {
            self.overflow = Some(Box::new(Overflow {
                bytes: output,
                read: 0,
            }));
        }
        Ok(kept)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityFilter<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.read_overflow(buf) {
                return Poll::Ready(Ok(()));
            }
            let start = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            let bytes = &mut buf.filled_mut()[start..];
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let kept = this
                .filter(bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            buf.set_filled(start + kept);
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityFilter<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
