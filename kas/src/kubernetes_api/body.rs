//! The body of an answer, read from the agent as the client takes it.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    audit::Record,
    exchange::{Ahead, Exchange, Interrupted, Part},
    idle::Idle,
    watch::Watch,
};

/// The body of an answer of the Kubernetes API proxy.
#[derive(Debug)]
pub struct ProxyBody(Kind);

#[derive(Debug)]
enum Kind {
    Whole(VecDeque<Bytes>),
    Streamed(Box<Streamed>),
    Watch(Box<Watch>),
}

/// An answer was cut short; its connection must not end as if it were whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer was cut short: {0}")]
pub struct CutShort(String);

impl ProxyBody {
    /// No bytes.
    pub(super) fn empty() -> Self {
        Self(Kind::Whole(VecDeque::new()))
    }

    /// Bytes that are all here.
    pub(super) fn whole(chunks: VecDeque<Bytes>) -> Self {
        Self(Kind::Whole(chunks))
    }

    /// Bytes that come from an exchange; `length` of them, where that is known.
    pub(super) fn streamed(
        exchange: Exchange,
        ahead: Ahead,
        length: Option<u64>,
        idle: Duration,
        record: Box<Record>,
    ) -> Self {
        Self(Kind::Streamed(Box::new(Streamed {
            exchange,
            ahead: ahead.chunks,
            left: length,
            idle: Idle::new(idle),
            record,
            over: false,
        })))
    }
}

impl From<Watch> for ProxyBody {
    fn from(watch: Watch) -> Self {
        Self(Kind::Watch(Box::new(watch)))
    }
}

impl From<Bytes> for ProxyBody {
    fn from(bytes: Bytes) -> Self {
        Self::whole(VecDeque::from([bytes]))
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match &mut self.get_mut().0 {
            Kind::Whole(chunks) => {
                Poll::Ready(chunks.pop_front().map(|data| Ok(Frame::data(data))))
            }
            Kind::Streamed(streamed) => streamed.poll_frame(cx),
            Kind::Watch(watch) => watch
                .poll_data(cx)
                .map(|next| next.map(|data| data.map(Frame::data).map_err(CutShort))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(chunks) => chunks.iter().all(Bytes::is_empty),
            Kind::Streamed(streamed) => streamed.over,
            Kind::Watch(watch) => watch.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(chunks) => {
                SizeHint::with_exact(chunks.iter().map(|chunk| chunk.len() as u64).sum())
            }
            Kind::Streamed(streamed) => streamed
                .left
                .map_or_else(SizeHint::default, SizeHint::with_exact),
            Kind::Watch(_) => SizeHint::default(),
        }
    }
}

#[derive(Debug)]
struct Streamed {
    exchange: Exchange,
    ahead: VecDeque<Bytes>,
    /// Bytes that the headers promise still.
    left: Option<u64>,
    idle: Idle,
    record: Box<Record>,
    over: bool,
}

impl Streamed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let next = match self.ahead.pop_front() {
            Some(data) => Ok(Some(data)),
            None => ready!(self.poll_data(cx)),
        };
        let next = next.and_then(|data| self.account(data));
        Poll::Ready(match next {
            Ok(data) => data.map(|data| Ok(Frame::data(data))),
            Err(error) => {
                self.record.reason = error.to_string();
                self.over = true;
                Some(Err(CutShort(error.to_string())))
            }
        })
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Interrupted>> {
        let Poll::Ready(part) = self.exchange.poll_part(cx) else {
            ready!(self.idle.poll(cx));
            return Poll::Ready(Err(Interrupted::Silence(self.idle.limit())));
        };
        self.idle.progress();
        Poll::Ready(match part {
            Ok(Part::Data(data)) => Ok(Some(data)),
            Ok(other) => other.expect_trailer().map(|()| None),
            Err(error) => Err(error),
        })
    }

    /// Compares what came with what was promised.
    fn account(&mut self, data: Option<Bytes>) -> Result<Option<Bytes>, Interrupted> {
        let length = data.as_ref().map_or(0, |data| data.len() as u64);
        self.record.sent += length;
        if let Some(left) = &mut self.left {
            let fits = left
                .checked_sub(length)
                .filter(|left| data.is_some() || *left == 0);
            *left = fits.ok_or_else(Interrupted::wrong_length)?;
        }
        if data.is_none() || self.left == Some(0) {
            self.over = true;
            self.record.cut = false;
            self.exchange.complete();
        }
        Ok(data)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.record.received = self.exchange.uploaded();
    }
}
