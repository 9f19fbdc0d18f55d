//! One byte stream type, whatever lies under it.

mod hangup;
mod scheme;
mod stream;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub use scheme::Scheme;
pub(crate) use stream::{Io, Stream};

use crate::{authority::AuthorityFilter, replay::Replay, tls::Subject, websocket::WebSocket};

/// TCP or TLS, with what was read too early put back in front.
pub(crate) type Transport = Replay<Stream>;

/// A connection: TCP, TLS, WebSocket, or WebSocket over TLS.
///
/// It keeps no buffers of its own. Reading and writing must be polled by one
/// task (as h2 and hyper do): a read may answer the peer, so it also waits for
/// room to write.
#[derive(Debug)]
pub struct ByteStream {
    layers: Layers,
    heard: Option<Heard>,
}

/// Changes whenever something came from the other end of a [`ByteStream`].
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<AtomicU32>);

impl Heard {
    /// Differs from an earlier value if something came since.
    #[must_use]
    pub fn mark(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// As if something had come.
    #[cfg(test)]
    pub(crate) fn mark_heard(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Layers {
    Plain(Transport),
    WebSocket(WebSocket<Transport>),
    AgentWebSocket(AuthorityFilter<WebSocket<Transport>>),
}

impl ByteStream {
    /// Anything that is a byte stream, for tests and for pipes in memory.
    pub fn boxed(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::plain(Transport::new(Stream::Other(Box::new(Io(io)))))
    }

    pub(crate) fn plain(transport: Transport) -> Self {
        Self::of(Layers::Plain(transport))
    }

    pub(crate) fn websocket(socket: WebSocket<Transport>) -> Self {
        Self::of(Layers::WebSocket(socket))
    }

    pub(crate) fn agent_websocket(socket: WebSocket<Transport>) -> Self {
        Self::of(Layers::AgentWebSocket(AuthorityFilter::new(socket)))
    }

    /// Whether the other end has closed its side or is gone, even behind bytes that were not read yet.
    /// Never true of a pipe in memory.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        match &self.layers {
            Layers::Plain(io) => io.get_ref().is_hung_up(),
            // These are read all the time, which shows it.
            Layers::WebSocket(_) | Layers::AgentWebSocket(_) => false,
        }
    }

    /// Whom the certificate is for that the other end has shown; `None` where TLS did not ask for one. Never of a
    /// WebSocket.
    #[must_use]
    pub fn peer_subject(&self) -> Option<Subject> {
        match &self.layers {
            Layers::Plain(io) => io.get_ref().peer_subject(),
            Layers::WebSocket(_) | Layers::AgentWebSocket(_) => None,
        }
    }

    /// A counter that changes with everything that is read from now on.
    pub fn heard(&mut self) -> Heard {
        self.heard.get_or_insert_default().clone()
    }

    const fn of(layers: Layers) -> Self {
        Self {
            layers,
            heard: None,
        }
    }
}

impl From<TcpStream> for ByteStream {
    fn from(tcp: TcpStream) -> Self {
        Self::plain(Transport::new(Stream::Tcp(tcp)))
    }
}

macro_rules! layer {
    ($self:expr, $io:ident => $call:expr) => {
        match &mut $self.layers {
            Layers::Plain($io) => $call,
            Layers::WebSocket($io) => $call,
            Layers::AgentWebSocket($io) => $call,
        }
    };
}

impl AsyncRead for ByteStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = layer!(this, io => Pin::new(io).poll_read(cx, buf));
        if let Some(heard) = &this.heard
            && buf.filled().len() > before
        {
            heard.0.fetch_add(1, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        layer!(self.get_mut(), io => Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        layer!(self.get_mut(), io => Pin::new(io).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.layers {
            Layers::Plain(io) => io.is_write_vectored(),
            Layers::WebSocket(io) => io.is_write_vectored(),
            Layers::AgentWebSocket(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        layer!(self.get_mut(), io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        layer!(self.get_mut(), io => Pin::new(io).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of::<ByteStream>();

        assert!(size <= 320, "{size}");
    }
}
