//! An answer that is read from the agent as the client takes it.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;

use super::exchange::{Ahead, Exchange, Interrupted, Part};
use crate::{
    body::{ContentStream, CutShort},
    idle::Idle,
    scope::Scope,
    sessions::SessionEnded,
};

/// An answer that is passed on as it comes.
#[derive(Debug)]
pub(super) struct Streamed {
    exchange: Box<Exchange>,
    ahead: VecDeque<Bytes>,
    /// Bytes that the headers promise still.
    left: Option<u64>,
    idle: Idle,
    over: bool,
}

impl Streamed {
    /// Bytes that come from an exchange; `length` of them, where that is known.
    pub(super) fn new(
        exchange: Box<Exchange>,
        ahead: Ahead,
        length: Option<u64>,
        idle: Duration,
    ) -> Self {
        Self {
            exchange,
            ahead: ahead.chunks,
            left: length,
            idle: Idle::new(idle),
            over: false,
        }
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Interrupted>> {
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
    fn account(
        &mut self,
        data: Option<Bytes>,
        scope: &mut Scope,
    ) -> Result<Option<Bytes>, Interrupted> {
        let length = data.as_ref().map_or(0, |data| data.len() as u64);
        scope.sent += length;
        if let Some(left) = &mut self.left {
            let fits = left
                .checked_sub(length)
                .filter(|left| data.is_some() || *left == 0);
            *left = fits.ok_or_else(Interrupted::wrong_length)?;
        }
        if data.is_none() || self.left == Some(0) {
            self.over = true;
            scope.cut = false;
            self.exchange.complete();
        }
        Ok(data)
    }
}

impl ContentStream for Streamed {
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        scope: &mut Scope,
    ) -> Poll<Option<Result<Bytes, CutShort>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(failure) = scope.poll_ended(cx) {
            scope.reason.clone_from(&failure.message);
            self.over = true;
            let ended = SessionEnded(failure.message);
            return Poll::Ready(Some(Err(CutShort::because(ended))));
        }
        let next = match self.ahead.pop_front() {
            Some(data) => Ok(Some(data)),
            None => ready!(self.poll_exchange(cx)),
        };
        let next = next.and_then(|data| self.account(data, scope));
        Poll::Ready(match next {
            Ok(data) => data.map(Ok),
            Err(error) => {
                scope.reason = error.to_string();
                self.over = true;
                Some(Err(CutShort::because(error)))
            }
        })
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn length(&self) -> Option<u64> {
        self.left
    }

    fn end(&mut self, scope: &mut Scope) {
        scope.received = self.exchange.uploaded();
    }
}
