//! What is sent: payload in frames, control frames only between them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use super::{
    Role,
    frame::{self, MAX_CONTROL, MAX_HEADER, Opcode},
};

/// Most payload in one frame that is not copied.
const MAX_FRAME: usize = 1 << 20;
/// Most payload in one frame that is masked, and so copied.
const MAX_MASKED: usize = 16 << 10;
/// Most bytes of unsent control frames; further pongs are dropped, as RFC 6455
/// allows for all but the last ping.
const MAX_ANSWERS: usize = 1 << 10;
/// Most slices of the caller in one write.
const MAX_SLICES: usize = 15;

/// Where writing stands.
#[derive(Debug)]
pub(super) struct Outbound {
    role: Role,
    /// A close frame was queued; nothing may follow it.
    closing: bool,
    /// The header of the frame whose payload is being written.
    header: [u8; MAX_HEADER],
    header_sent: u8,
    header_length: u8,
    /// Payload that the current frame still needs.
    left: u32,
    /// Whole frames that are to be sent before anything else.
    queue: Vec<u8>,
    queue_sent: usize,
}

impl Outbound {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            closing: false,
            header: [0; MAX_HEADER],
            header_sent: 0,
            header_length: 0,
            left: 0,
            queue: Vec::new(),
            queue_sent: 0,
        }
    }

    /// Queues a control frame, unless too many wait already.
    pub(super) fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        let waiting = self.queue.len() - self.queue_sent;
        if !self.closing && waiting < MAX_ANSWERS {
            self.queue_frame(opcode, payload.len(), [payload].into_iter());
        }
    }

    /// Queues a close frame, unless one was; an ASCII reason, cut if too long.
    pub(super) fn close(&mut self, code: u16, reason: &str) {
        if self.closing {
            return;
        }
        let end = reason.len().min(MAX_CONTROL - 2);
        let code = code.to_be_bytes();
        let payload = [&code[..], &reason.as_bytes()[..end]];
        self.queue_frame(Opcode::Close, 2 + end, payload.into_iter());
        self.closing = true;
    }

    /// Queues the close frame of an end that breaks nothing off. A server ends
    /// a connection only because it goes, or wants the client to go, elsewhere.
    pub(super) fn leave(&mut self) {
        let code = match self.role {
            Role::Client => frame::NORMAL,
            Role::Server => frame::GOING_AWAY,
        };
        self.close(code, "");
    }

    /// Whether whole frames wait to be sent.
    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    #[cfg(test)]
    pub(super) fn queue_length(&self) -> usize {
        self.queue.capacity()
    }

    /// Writes what is queued, once the current frame is complete. Ready when
    /// the queue is empty, or cannot be sent before more payload comes.
    pub(super) fn poll_queue<S: AsyncWrite + Unpin>(
        &mut self,
        inner: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left > 0 {
            return Poll::Ready(Ok(()));
        }
        while self.queue_sent < self.queue.len() {
            let rest = &self.queue[self.queue_sent..];
            match ready!(Pin::new(&mut *inner).poll_write(cx, rest)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(sent) => self.queue_sent += sent,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.queue = Vec::new();
        self.queue_sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Writes payload; how much of it was taken.
    pub(super) fn poll_payload<S: AsyncWrite + Unpin>(
        &mut self,
        inner: &mut S,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            if self.closing {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            ready!(self.poll_queue(inner, cx))?;
            let length = slices.iter().take(MAX_SLICES).map(|s| s.len()).sum();
            match (self.role, length) {
                (_, 0) => return Poll::Ready(Ok(0)),
                (Role::Client, _) => return self.poll_masked(inner, cx, length, slices),
                (Role::Server, _) => self.start_frame(length.min(MAX_FRAME)),
            }
        }
        self.poll_frame(inner, cx, slices)
    }

    fn poll_masked<S: AsyncWrite + Unpin>(
        &mut self,
        inner: &mut S,
        cx: &mut Context<'_>,
        length: usize,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = length.min(MAX_MASKED);
        self.queue_frame(Opcode::Binary, length, slices.iter().map(|s| &**s));
        match self.poll_queue(inner, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(length)),
        }
    }

    fn start_frame(&mut self, length: usize) {
        let header = frame::encode(Opcode::Binary, length, None, &mut self.header);
        self.header_length = u8::try_from(header).expect("a header is short");
        self.header_sent = 0;
        self.left = u32::try_from(length).expect("frames are bounded");
    }

    fn poll_frame<S: AsyncWrite + Unpin>(
        &mut self,
        inner: &mut S,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let header = &self.header[usize::from(self.header_sent)..self.header_length.into()];
            let unsent = header.len();
            let mut parts = [IoSlice::new(&[]); MAX_SLICES + 1];
            parts[0] = IoSlice::new(header);
            let used = 1 + fill(&mut parts[1..], slices, self.left as usize);
            let parts = if unsent == 0 {
                &parts[1..used]
            } else {
                &parts[..used]
            };
            if parts.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let sent = ready!(Pin::new(&mut *inner).poll_write_vectored(cx, parts))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.header_sent += u8::try_from(sent.min(unsent)).expect("a header is short");
            if let Some(payload @ 1..) = sent.checked_sub(unsent) {
                self.left -= u32::try_from(payload).expect("no more than what is left");
                return Poll::Ready(Ok(payload));
            }
        }
    }

    /// Queues a frame with the first `length` bytes of `payload`.
    fn queue_frame<'a>(
        &mut self,
        opcode: Opcode,
        length: usize,
        payload: impl Iterator<Item = &'a [u8]>,
    ) {
        let mut mask = match self.role {
            Role::Client => Some(rand::random::<[u8; 4]>()),
            Role::Server => None,
        };
        let mut header = [0; MAX_HEADER];
        let header_length = frame::encode(opcode, length, mask, &mut header);
        self.queue.reserve_exact(header_length + length);
        self.queue.extend_from_slice(&header[..header_length]);
        let start = self.queue.len();
        for part in payload {
            let missing = start + length - self.queue.len();
            self.queue
                .extend_from_slice(&part[..part.len().min(missing)]);
        }
        if let Some(mask) = &mut mask {
            frame::apply_mask(mask, &mut self.queue[start..]);
        }
    }
}

/// Fills `parts` with the first `limit` bytes of `slices`; how many are used.
fn fill<'a>(parts: &mut [IoSlice<'a>], slices: &'a [IoSlice<'a>], mut limit: usize) -> usize {
    let mut used = 0;
    for slice in slices.iter().filter(|slice| !slice.is_empty()) {
        if used == parts.len() || limit == 0 {
            break;
        }
        let taken = slice.len().min(limit);
        parts[used] = IoSlice::new(&slice[..taken]);
        limit -= taken;
        used += 1;
    }
    used
}
