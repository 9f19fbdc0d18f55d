//! One upgraded connection to the API server, and how far both ends of it are.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use proto::agent::grpctool::Segment;
use runtime::resume::{Endpoint, Received, Violation};
use tokio::{io::AsyncWrite, sync::mpsc, time::Sleep};
use tokio_util::{io::poll_read_buf, task::AbortOnDropHandle};
use tonic::Status;

use super::{Batch, held::Held, left, unavailable};
use crate::{
    call::{Outbound, TunnelError},
    metrics::Metrics,
};

/// Bytes read at a time, and of a segment at most.
const READ_BYTES: usize = 32 << 10;
/// How long what was passed on may wait for company before it is acknowledged.
const ACKNOWLEDGE_DELAY: Duration = Duration::from_millis(100);

/// Why a call does not carry the connection any more.
#[derive(Debug)]
pub(super) enum Stopped {
    /// It is over.
    Over,
    /// It cannot go on, whatever carries it.
    Failed(Status),
    /// The call broke.
    Lost(TunnelError),
    /// Another call is to carry it.
    Wanted,
}

/// A connection between two calls or with one.
pub(super) struct Connection {
    io: TokioIo<Upgraded>,
    endpoint: Endpoint,
    buffer: BytesMut,
    /// For the API server.
    unwritten: Bytes,
    unflushed: bool,
    /// Whether the API server takes nothing more.
    writing: Writing,
    /// Whether the API server has nothing more to say, or cannot.
    read: Read,
    acknowledge: Option<Pin<Box<Sleep>>>,
    held: Held,
    metrics: Metrics,
    /// What of it is counted among what all connections hold.
    counted: usize,
    _driver: AbortOnDropHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Open,
    /// The end is on its way.
    Closing,
    Ended,
}

#[derive(Debug)]
enum Read {
    Open,
    Ended,
    Failed(Status),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(
        io: TokioIo<Upgraded>,
        driver: AbortOnDropHandle<()>,
        (held, metrics): (Held, Metrics),
    ) -> Box<Self> {
        Box::new(Self {
            io,
            endpoint: Endpoint::default(),
            buffer: BytesMut::new(),
            unwritten: Bytes::new(),
            unflushed: false,
            writing: Writing::Open,
            read: Read::Open,
            acknowledge: None,
            held,
            metrics,
            counted: 0,
            _driver: driver,
        })
    }

    /// How far kas's bytes have come.
    pub(super) fn received(&self) -> u64 {
        self.endpoint.received()
    }

    /// Another call carries it; kas has received what lies before `received`.
    pub(super) fn attach(&mut self, received: u64) -> Result<(), Violation> {
        self.acknowledge = None;
        self.endpoint.attach(received)
    }

    /// Moves bytes both ways, until the call does not carry it any more.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        segments: &mut mpsc::Receiver<Segment>,
        outbound: &mut Outbound,
    ) -> Poll<Stopped> {
        loop {
            match segments.poll_recv(cx) {
                Poll::Ready(Some(segment)) if segment.over => {
                    // What came before is for the API server still.
                    self.poll_write(cx);
                    return Poll::Ready(Stopped::Over);
                }
                Poll::Ready(Some(segment)) => {
                    let length = segment.data.len() as u64;
                    self.metrics.bytes_received.inc_by(length);
                    if let Err(violation) = self.endpoint.receive(segment) {
                        let status = Status::invalid_argument(violation.to_string());
                        return Poll::Ready(Stopped::Failed(status));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(Stopped::Lost(left())),
                Poll::Pending => break,
            }
        }
        self.poll_write(cx);
        self.poll_read(cx);
        self.count();
        self.poll_acknowledge(cx);
        if let Poll::Ready(error) = self.poll_send(cx, outbound) {
            return Poll::Ready(Stopped::Lost(error));
        }
        match &self.read {
            Read::Ended if self.endpoint.is_finished() => return Poll::Ready(Stopped::Over),
            Read::Failed(status) if self.endpoint.is_acknowledged() => {
                return Poll::Ready(Stopped::Failed(status.clone()));
            }
            Read::Open | Read::Ended | Read::Failed(_) => {}
        }
        outbound.poll_reset(cx).map(Stopped::Lost)
    }

    /// A connection that cannot be written to may still have something to say, so errors show where it is read.
    fn poll_write(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(_)) = self.poll_to_cluster(cx) {
            self.writing = Writing::Ended;
            self.unwritten = Bytes::new();
            while self.endpoint.take().is_some() {}
        }
    }

    fn poll_to_cluster(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.unwritten.is_empty() {
                let write = Pin::new(&mut self.io).poll_write(cx, &self.unwritten);
                let written = ready!(write)?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.unwritten.advance(written);
                self.unflushed = true;
            }
            match self.endpoint.take() {
                Some(_) if self.writing == Writing::Ended => {}
                Some(Received::Data(data)) => self.unwritten = data,
                Some(Received::End) => self.writing = Writing::Closing,
                None => break,
            }
        }
        if self.writing == Writing::Closing {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            self.writing = Writing::Ended;
        } else if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) {
        while matches!(self.read, Read::Open)
            && self.endpoint.room() >= READ_BYTES
            && self.held.may_grow(self.endpoint.unacknowledged())
        {
            self.buffer.reserve(READ_BYTES);
            match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.buffer) {
                Poll::Ready(Ok(0)) => {
                    self.endpoint.finish();
                    self.read = Read::Ended;
                }
                Poll::Ready(Ok(count)) => {
                    self.metrics.bytes_sent.inc_by(count as u64);
                    self.endpoint.send(self.buffer.split().freeze());
                }
                Poll::Ready(Err(error)) => self.read = Read::Failed(unavailable(&error)),
                Poll::Pending => return,
            }
        }
    }

    fn poll_acknowledge(&mut self, cx: &mut Context<'_>) {
        if !self.endpoint.owes_acknowledgement() {
            self.acknowledge = None;
            return;
        }
        let delay = || Box::pin(tokio::time::sleep(ACKNOWLEDGE_DELAY));
        let sleep = self.acknowledge.get_or_insert_with(delay);
        if sleep.as_mut().poll(cx).is_ready() {
            self.acknowledge = None;
            self.endpoint.acknowledge();
        }
    }

    /// Ready when the tunnel is gone.
    fn poll_send(&mut self, cx: &mut Context<'_>, outbound: &mut Outbound) -> Poll<TunnelError> {
        while let Some(length) = self.endpoint.next_length(READ_BYTES) {
            if let Err(error) = ready!(outbound.poll_ready(cx, length)) {
                return Poll::Ready(error);
            }
            let Some(segment) = self.endpoint.next_segment(READ_BYTES) else {
                break;
            };
            let frame = Batch::segment(outbound, segment);
            if let Err(error) = outbound.start_send(frame) {
                return Poll::Ready(error);
            }
        }
        Poll::Pending
    }

    fn count(&mut self) {
        let weight = self.endpoint.weight();
        self.held.count(self.counted, weight);
        self.counted = weight;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.held.count(self.counted, 0);
    }
}
