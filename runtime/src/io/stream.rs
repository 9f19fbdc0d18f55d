//! What a connection runs on: TCP, or TLS over something.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

use super::{Transport, hangup};
use crate::tls::Subject;

/// TCP, or TLS over a transport; boxed where large.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    TlsServer(Box<server::TlsStream<Transport>>),
    TlsClient(Box<client::TlsStream<Transport>>),
    Other(Box<dyn AnyIo>),
}

impl Stream {
    /// Whether the other end of the socket has closed its side or is gone.
    pub(crate) fn is_hung_up(&self) -> bool {
        match self {
            Self::Tcp(tcp) => hangup::is_hung_up(tcp),
            Self::TlsServer(tls) => tls.get_ref().0.get_ref().is_hung_up(),
            Self::TlsClient(tls) => tls.get_ref().0.get_ref().is_hung_up(),
            Self::Other(_) => false,
        }
    }

    /// Whom the client's certificate is for, where it had to show one.
    pub(crate) fn peer_subject(&self) -> Option<Subject> {
        let Self::TlsServer(tls) = self else {
            return None;
        };
        Subject::read(tls.get_ref().1.peer_certificates()?.first()?)
    }
}

/// Any byte stream, with a name for debugging.
pub(crate) trait AnyIo: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {}

/// Gives any byte stream a `Debug`.
pub(crate) struct Io<T>(pub(crate) T);

impl<T: AsyncRead + AsyncWrite + Send + Unpin> AnyIo for Io<T> {}

impl<T> fmt::Debug for Io<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Io")
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Io<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

macro_rules! stream {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($io) => $call,
            Stream::TlsServer($io) => $call,
            Stream::TlsClient($io) => $call,
            Stream::Other($io) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        stream!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        stream!(self, io => Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        stream!(self, io => Pin::new(io).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(io) => io.is_write_vectored(),
            Self::TlsServer(io) => io.is_write_vectored(),
            Self::TlsClient(io) => io.is_write_vectored(),
            Self::Other(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        stream!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        stream!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
