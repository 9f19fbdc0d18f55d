//! A client's connection with timeouts: for its first request, and for writes that it does not take.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use runtime::io::ByteStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::idle::Idle;

/// How an HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose writes may not wait longer than a limit.
#[derive(Debug)]
pub(super) struct Guarded {
    io: Arc<Mutex<ByteStream>>,
    stalled: Idle,
    activity: Activity,
}

/// Sees whether the client of a [`Guarded`] connection is still there.
#[derive(Debug)]
pub(super) struct Presence {
    io: Arc<Mutex<ByteStream>>,
    activity: Activity,
}

impl Presence {
    /// Whether the client has left unnoticed: a connection of HTTP/1.1 is not read while a request is in progress
    /// behind which more was sent, or whose body is not being read.
    pub(super) fn is_over(&self) -> bool {
        !self.activity.0.reading.load(Ordering::Relaxed)
            && !self.activity.is_http2()
            && lock(&self.io).is_hung_up()
    }
}

fn lock(io: &Mutex<ByteStream>) -> MutexGuard<'_, ByteStream> {
    io.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was seen on a connection. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    preface: AtomicUsize,
    begun: AtomicBool,
    /// Whether somebody waits for the client to say something, or to go.
    reading: AtomicBool,
    requests: Mutex<Requests>,
}

/// Requests of HTTP/2 in progress, and since when there are none.
#[derive(Debug)]
struct Requests {
    open: usize,
    none_since: Instant,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            open: 0,
            none_since: Instant::now(),
        }
    }
}

/// A request in progress, as long as it is held.
#[derive(Debug)]
pub(super) struct Open(Activity);

impl Drop for Open {
    fn drop(&mut self) {
        let mut requests = self.0.requests();
        requests.open -= 1;
        requests.none_since = Instant::now();
    }
}

impl Activity {
    /// A request came.
    pub(super) fn request(&self) {
        self.0.begun.store(true, Ordering::Relaxed);
    }

    /// A request of HTTP/2 is in progress from now on.
    pub(super) fn open(&self) -> Open {
        self.requests().open += 1;
        Open(self.clone())
    }

    /// How long there has been no request of HTTP/2.
    pub(super) fn unused(&self) -> Duration {
        let requests = self.requests();
        if requests.open > 0 {
            return Duration::ZERO;
        }
        requests.none_since.elapsed()
    }

    /// Whether the client speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.0.preface.load(Ordering::Relaxed) == PREFACE.len()
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the client has sent a request, or the preface of HTTP/2.
    pub(super) fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::Relaxed) || self.is_http2()
    }

    fn read(&self, bytes: &[u8]) {
        let at = self.0.preface.load(Ordering::Relaxed);
        // A mismatch stays where it is: the rest never matches by chance.
        if let Some(rest) = PREFACE.get(at..).filter(|rest| !rest.is_empty()) {
            let length = rest.len().min(bytes.len());
            if rest[..length] == bytes[..length] {
                self.0.preface.store(at + length, Ordering::Relaxed);
            }
        }
    }
}

impl Guarded {
    /// Guards a connection; a write may wait as long as `limit`.
    pub(super) fn new(io: ByteStream, limit: Duration) -> (Self, Activity, Presence) {
        let activity = Activity::default();
        let io = Arc::new(Mutex::new(io));
        let presence = Presence {
            io: io.clone(),
            activity: activity.clone(),
        };
        let guarded = Self {
            io,
            stalled: Idle::new(limit),
            activity: activity.clone(),
        };
        (guarded, activity, presence)
    }

    fn in_time<T>(
        &mut self,
        write: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled.progress();
            return write;
        }
        ready!(self.stalled.poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut *lock(&this.io)).poll_read(cx, buf);
        let reading = &this.activity.0.reading;
        reading.store(read.is_pending(), Ordering::Relaxed);
        ready!(read)?;
        this.activity.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut *lock(&this.io)).poll_write(cx, bytes);
        this.in_time(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut *lock(&this.io)).poll_write_vectored(cx, slices);
        this.in_time(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.io).is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut *lock(&this.io)).poll_flush(cx);
        this.in_time(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut *lock(&this.io)).poll_shutdown(cx);
        this.in_time(shut, cx)
    }
}
