//! A byte stream whose reader sees it through a filter.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::replay::Unread;

/// What becomes of the first bytes of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many bytes pass unchanged.
    Pass(usize),
    /// So many bytes were taken. What was written to the output stands for
    /// them and for all bytes taken before.
    Take(usize),
}

/// Looks at what is read of a stream before its reader does, and may put something else in its place.
pub trait StreamFilter {
    /// Why the stream cannot go on.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Says what becomes of the first bytes of `input`, which must not be empty. Never passes or
    /// takes nothing.
    ///
    /// # Errors
    /// When the stream cannot go on.
    fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, Self::Error>;

    /// Whether all that is still to come is thrown away.
    fn discards(&self) -> bool {
        false
    }
}

/// A reader who takes less at a time is read for.
const LEAST_READ_BYTES: usize = 256;
/// How long a stream is read that nobody wants to read any more.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// A byte stream whose reading side passes through a filter.
#[derive(Debug)]
pub struct Filtered<S, F> {
    inner: S,
    filter: F,
    /// What must be read before anything else: output that was longer than
    /// its input. Boxed, for it is hardly ever there.
    overflow: Option<Box<Overflow>>,
}

#[derive(Debug, Default)]
struct Overflow {
    unread: Unread,
    /// How long the peer's last bytes are waited for once nobody reads.
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S, F> Filtered<S, F> {
    /// Filters a connection from its very first byte.
    pub(crate) fn through(inner: S, filter: F) -> Self {
        Self {
            inner,
            filter,
            overflow: None,
        }
    }

    fn read_overflow(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let Some(overflow) = &mut self.overflow else {
            return false;
        };
        if overflow.unread.read_into(buf) {
            self.overflow = None;
        }
        true
    }
}

impl<S, F: StreamFilter> Filtered<S, F> {
    /// Filters `bytes` in place; how many of them are to be read. What does
    /// not fit becomes overflow.
    fn filter(&mut self, bytes: &mut [u8]) -> Result<usize, F::Error> {
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
            let overflow = self.overflow.insert(Box::default());
            overflow.unread.put_in_front(output);
        }
        Ok(kept)
    }
}

impl<S: AsyncRead + Unpin, F> Filtered<S, F> {
    /// Waits a while for the peer to close: were the socket closed while it still sends, it might
    /// lose the answer.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = &mut self.overflow.get_or_insert_default().linger;
        let linger = linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER_TIMEOUT)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut unwanted = [0; 4 << 10];
        loop {
            let mut buf = ReadBuf::new(&mut unwanted);
            let read = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin, F: StreamFilter + Unpin> Filtered<S, F> {
    /// Reads for a reader who takes a few bytes at a time, as hyper does while it looks for the
    /// version: the filter may have to see much more. How many bytes were read.
    fn poll_read_apart(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [0; 8 << 10];
        let mut buf = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf))?;
        let read = buf.filled().len();
        let kept = self.filter(buf.filled_mut()).map_err(broken)?;
        if kept > 0 {
            let overflow = self.overflow.get_or_insert_default();
            overflow.unread.put_in_front(room[..kept].to_vec());
        }
        Poll::Ready(Ok(read))
    }
}

fn broken<E: std::error::Error + Send + Sync + 'static>(error: E) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncRead + Unpin, F: StreamFilter + Unpin> AsyncRead for Filtered<S, F> {
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
            if buf.remaining() < LEAST_READ_BYTES {
                if ready!(this.poll_read_apart(cx))? == 0 {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let start = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            let bytes = &mut buf.filled_mut()[start..];
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let kept = this.filter(bytes).map_err(broken)?;
            buf.set_filled(start + kept);
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + AsyncRead + Unpin, F: StreamFilter + Unpin> AsyncWrite for Filtered<S, F> {
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
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        if this.filter.discards() {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
