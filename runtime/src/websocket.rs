//! A byte stream in binary WebSocket messages, without buffers of its own.
//!
//! Message borders mean nothing. Reading goes straight into the caller's
//! buffer, where frame headers are cut out and the payload is unmasked in
//! place. A server writes a frame header in front of the caller's slices; a
//! client must mask, so it copies into a bounded buffer that lives until it is
//! flushed. An idle connection owns its few words of state and nothing else.

mod frame;
pub mod handshake;
mod inbound;
pub mod messages;
mod outbound;
pub mod overheard;
pub mod passing;
mod ping;
mod probe;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use frame::Opcode;
use inbound::{End, Inbound};
use outbound::Outbound;
use ping::PingTimer;
pub(crate) use probe::{answers_message, answers_ping};

/// Which end of a WebSocket this is: a client masks, a server does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends masked frames.
    Client,
    /// Sends frames in clear and insists on masked ones.
    Server,
}

/// A byte stream inside binary WebSocket messages.
///
/// Reading also writes (pongs, pings and closing handshakes), so both
/// directions must be polled by one task, as h2 does.
#[derive(Debug)]
pub struct WebSocket<S> {
    inner: S,
    inbound: Inbound,
    outbound: Outbound,
    end: Option<Box<End>>,
    ping: Option<Box<PingTimer>>,
}

impl<S> WebSocket<S> {
    /// A WebSocket on a stream whose handshake is done. With a ping interval
    /// it sends a ping at least that often, which keeps load balancers from
    /// cutting a quiet connection.
    pub fn new(inner: S, role: Role, ping_interval: Option<Duration>) -> Self {
        Self {
            inner,
            inbound: Inbound::new(role),
            outbound: Outbound::new(role),
            end: None,
            ping: ping_interval.map(|interval| Box::new(PingTimer::new(interval))),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Queues a ping if one is due. Asked only where nothing is there to be read: on a busy connection the timer
    /// would be looked at with each read.
    fn ping(&mut self, cx: &mut Context<'_>) {
        if let Some(ping) = &mut self.ping
            && ping.poll_due(cx)
            && !self.outbound.has_queue()
        {
            self.outbound.control(Opcode::Ping, &[]);
        }
    }

    /// Sends pings and answers that wait, as far as that is possible now. A failure to write shows when reading or
    /// writing data.
    fn answer(&mut self, cx: &mut Context<'_>) {
        if self.outbound.has_queue() && self.outbound.poll_queue(&mut self.inner, cx).is_ready() {
            let _ = Pin::new(&mut self.inner).poll_flush(cx);
        }
    }

    /// Reads into `buf` once; whether the caller got any payload.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let bytes = &mut buf.filled_mut()[start..];
        if bytes.is_empty() {
            self.end = Some(Box::new(self.inbound.cut()));
            return Poll::Ready(Ok(false));
        }
        let (payload, end) = self.inbound.unframe(bytes, &mut self.outbound);
        buf.set_filled(start + payload);
        if let Some(end) = end {
            if let Some(code) = end.answer() {
                self.outbound.close(code, &end.reason());
            }
            self.end = Some(Box::new(end));
        }
        Poll::Ready(Ok(payload > 0))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
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
            this.answer(cx);
            if let Some(end) = &this.end {
                return Poll::Ready(end.result());
            }
            let Poll::Ready(filled) = this.poll_fill(cx, buf) else {
                this.ping(cx);
                this.answer(cx);
                return Poll::Pending;
            };
            if filled? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.outbound.poll_payload(&mut this.inner, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.outbound.poll_queue(&mut this.inner, cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.outbound.leave();
        ready!(this.outbound.poll_queue(&mut this.inner, cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}
