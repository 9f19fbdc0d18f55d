//! A request's body on its way to the agent.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use proto::frame::Payload;
use router::{Broken, Call};
use runtime::grpc::CHUNK_BYTES;

use crate::{
    idle::Idle,
    route::{BoxBody, BoxError},
};

/// Bytes of a body that are read while there is no tunnel, about: most bodies are whole then, and only
/// behind a whole body does a connection of HTTP/1.1 show that its client has gone.
const AHEAD_BYTES: usize = 16 << 10;

/// Bytes of a body that are kept so that it can be sent again, at most.
const KEPT_BYTES: usize = 64 << 10;
/// Pieces of these.
const KEPT_PIECES: usize = 64;

/// `HttpRequest.data`, `Data.data`.
const DATA: &[u32] = &[2, 1];
/// `HttpRequest.trailer`.
const TRAILER: &[u32] = &[3];

/// The message behind the body.
pub(super) fn trailer() -> Payload {
    Payload::nested(TRAILER, Bytes::new())
}

/// A body that is sent as fast as the agent takes it.
pub(super) struct Upload {
    body: BoxBody,
    chunk: Bytes,
    ahead: VecDeque<Bytes>,
    whole: bool,
    close: bool,
    pause: Option<Idle>,
    /// All that was sent, where it is kept.
    kept: Option<Vec<Bytes>>,
}

/// Why a body could not be sent whole.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The client did not send it.
    Client(BoxError),
    /// The client paused for too long.
    Pause(Duration),
    /// The call is gone.
    Call,
}

impl From<Broken> for UploadError {
    fn from(_: Broken) -> Self {
        Self::Call
    }
}

impl Upload {
    /// Sends `body`, then the trailer, and if `close` is set says that this is all.
    /// The client may `pause` for so long.
    pub(super) fn new(body: BoxBody, close: bool, pause: Duration) -> Self {
        Self {
            body,
            chunk: Bytes::new(),
            ahead: VecDeque::new(),
            whole: false,
            close,
            pause: Some(Idle::new(pause)),
            kept: None,
        }
    }

    /// Keeps what is sent from now on, unless it is long.
    pub(super) fn keep(&mut self) {
        self.kept = Some(Vec::new());
    }

    /// What was sent is not needed any more.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// The same body from its beginning, if it was kept.
    pub(super) fn rewind(mut self) -> Option<Self> {
        let kept = self.kept.replace(Vec::new())?;
        self.chunk = Bytes::new();
        for chunk in kept.into_iter().rev() {
            self.ahead.push_front(chunk);
        }
        Some(self)
    }

    fn keep_sent(&mut self, chunk: &Bytes) {
        if let Some(kept) = &mut self.kept {
            let bytes: usize = kept.iter().map(Bytes::len).sum();
            if bytes + chunk.len() <= KEPT_BYTES && kept.len() < KEPT_PIECES {
                kept.push(chunk.clone());
            } else {
                self.kept = None;
            }
        }
    }

    /// Sends what can be sent, counting it in `count`; ready when all is.
    pub(super) fn poll(
        &mut self,
        call: &mut Call,
        count: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            while !self.chunk.is_empty() {
                let length = self.chunk.len().min(CHUNK_BYTES);
                ready!(call.poll_ready(cx, length))?;
                call.start_send(Payload::nested(DATA, self.chunk.split_to(length)))?;
                *count += length as u64;
            }
            match ready!(self.poll_chunk(cx))? {
                Some(chunk) => {
                    self.keep_sent(&chunk);
                    self.chunk = chunk;
                }
                None => {
                    self.whole = true;
                    return Poll::Ready(self.finish(call));
                }
            }
        }
    }

    /// Reads the beginning of the body while there is no call to send it on; ends only with the
    /// client. Cancel-safe.
    pub(super) async fn fails_ahead(&mut self) -> UploadError {
        poll_fn(|cx| self.poll_ahead(cx)).await
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<UploadError> {
        while !self.whole && self.ahead.iter().map(Bytes::len).sum::<usize>() < AHEAD_BYTES {
            match ready!(self.poll_frame(cx)) {
                Ok(Some(frame)) => self.ahead.push_back(data(frame)),
                Ok(None) => self.whole = true,
                Err(error) => return Poll::Ready(error),
            }
        }
        Poll::Pending
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, UploadError>> {
        if let Some(chunk) = self.ahead.pop_front() {
            return Poll::Ready(Ok(Some(chunk)));
        }
        if self.whole {
            return Poll::Ready(Ok(None));
        }
        self.poll_frame(cx).map_ok(|frame| frame.map(data))
    }

    /// From now on the client may pause for as long as it likes.
    pub(super) fn may_pause(&mut self) {
        self.pause = None;
    }

    /// Says behind the body that nothing more follows.
    pub(super) fn close_behind(&mut self) {
        self.close = true;
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, UploadError>> {
        match (self.body.as_mut().poll_frame(cx), &mut self.pause) {
            (Poll::Ready(frame), pause) => {
                if let Some(pause) = pause {
                    pause.progress();
                }
                Poll::Ready(frame.transpose().map_err(UploadError::Client))
            }
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Pending, Some(pause)) => {
                ready!(pause.poll(cx));
                Poll::Ready(Err(UploadError::Pause(pause.limit())))
            }
        }
    }

    fn finish(&mut self, call: &mut Call) -> Result<(), UploadError> {
        call.start_send(trailer())?;
        if self.close {
            call.close_send()?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload")
            .field("close", &self.close)
            .finish_non_exhaustive()
    }
}

/// The protocol has no place for trailers of requests.
fn data(frame: Frame<Bytes>) -> Bytes {
    frame.into_data().unwrap_or_default()
}
