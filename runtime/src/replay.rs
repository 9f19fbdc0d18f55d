//! Bytes that were read too early are read again first.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are to be read before anything else.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    bytes: Vec<u8>,
    read: usize,
}

impl Unread {
    /// Reads what fits; whether nothing is left then.
    pub(crate) fn read_into(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = &self.bytes[self.read..];
        let taken = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..taken]);
        self.read += taken;
        self.read == self.bytes.len()
    }

    /// Puts `bytes` in front of what is left.
    pub(crate) fn put_in_front(&mut self, mut bytes: Vec<u8>) {
        bytes.extend_from_slice(&self.bytes[self.read..]);
        *self = Self { bytes, read: 0 };
    }
}

/// A stream with bytes put back in front of it; eight bytes more than the
/// stream itself once they were read.
#[derive(Debug)]
pub(crate) struct Replay<S> {
    inner: S,
    again: Option<Box<Unread>>,
}

impl<S> Replay<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, again: None }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Puts `bytes` in front of everything that is still to be read.
    pub(crate) fn put_back(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.again.get_or_insert_default().put_in_front(bytes);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(again) = &mut self.again else {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        };
        if again.read_into(buf) {
            self.again = None;
            // What follows comes in the same read if it is there: rustls keeps a buffer of twice the size for each
            // connection whose first read was short. That it is not there yet, or that the stream has failed, is
            // for the next read to say.
            if buf.remaining() > 0 {
                let _ = Pin::new(&mut self.inner).poll_read(cx, buf);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_was_put_back_comes_first() {
        let mut stream = Replay::new(&b"world"[..]);
        stream.put_back(b"lo ".to_vec());
        stream.put_back(b"hel".to_vec());

        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();

        assert_eq!(text, "hello world");
        assert!(stream.again.is_none());
    }

    #[tokio::test]
    async fn what_follows_comes_in_the_same_read() {
        let mut stream = Replay::new(&b"world"[..]);
        stream.put_back(b"hello ".to_vec());

        let mut bytes = [0; 32];
        let read = stream.read(&mut bytes).await.unwrap();

        assert_eq!(&bytes[..read], b"hello world");
    }
}
