//! An answer that is read from the agent as the client takes it.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    exchange::{Ahead, Exchange, Interrupted, Part},
    recovery::Recovery,
};
use crate::{
    body::{ContentStream, CutShort},
    idle::Idle,
    scope::Scope,
    sessions::SessionEnded,
};

/// A call that brings the rest of an answer, and what it takes to go on once more.
type GoingOn = BoxFuture<'static, Result<(Box<Exchange>, Recovery), Interrupted>>;

/// An answer that is passed on as it comes.
pub(super) struct Streamed {
    exchange: Box<Exchange>,
    /// What it takes to go on when the call breaks, where that can be.
    recovery: Option<Recovery>,
    going_on: Option<GoingOn>,
    /// Bytes of the body that came of it.
    received: u64,
    uploaded: u64,
    ahead: VecDeque<Bytes>,
    /// Bytes that the headers promise still.
    left: Option<u64>,
    idle: Idle,
    over: bool,
}

impl Streamed {
    /// Bytes that come from an exchange; `length` of them, where that is known. With `recovery` they go on when its call
    /// breaks.
    pub(super) fn new(
        (exchange, ahead): (Box<Exchange>, Ahead),
        length: Option<u64>,
        idle: Duration,
        recovery: Option<Recovery>,
    ) -> Self {
        Self {
            uploaded: 0,
            received: ahead.length(),
            recovery,
            going_on: None,
            exchange,
            ahead: ahead.chunks,
            left: length,
            idle: Idle::new(idle),
            over: false,
        }
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Interrupted>> {
        let Poll::Ready(part) = self.poll_part(cx) else {
            ready!(self.idle.poll(cx));
            return Poll::Ready(Err(Interrupted::Silence(self.idle.limit())));
        };
        self.idle.progress();
        Poll::Ready(match part {
            Ok(Part::Data(data)) => {
                self.received += data.len() as u64;
                Ok(Some(data))
            }
            Ok(other) => other.expect_trailer().map(|()| None),
            Err(error) => Err(error),
        })
    }

    /// The next part, of another call where the present one broke.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Interrupted>> {
        loop {
            if let Some(going_on) = &mut self.going_on {
                let (exchange, recovery) = ready!(going_on.as_mut().poll(cx))?;
                self.going_on = None;
                self.uploaded = self.uploaded.max(self.exchange.uploaded());
                self.exchange = exchange;
                self.recovery = Some(recovery);
            }
            match ready!(self.exchange.poll_part(cx)) {
                Err(error) if error.is_about_the_path() => match self.recovery.take() {
                    Some(recovery) => {
                        self.going_on = Some(Box::pin(recovery.go_on(self.received, error)));
                    }
                    None => return Poll::Ready(Err(error)),
                },
                part => return Poll::Ready(part),
            }
        }
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

impl std::fmt::Debug for Streamed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streamed")
            .field("exchange", &self.exchange)
            .field("left", &self.left)
            .finish_non_exhaustive()
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
        scope.received = self.uploaded.max(self.exchange.uploaded());
    }
}
