//! A watch that goes on when its tunnel does not.
//!
//! The answer to a `watch=true` request is read event by event. When the path to
//! the agent breaks, the request is made again behind the last resource version
//! (see [`Position`](position::Position)), and what it brings goes into the same
//! answer: the client sees neither a gap nor an event twice.
//!
//! * Only whole events are passed on; an event of more than 4 MiB is passed on
//!   as it comes, and a break in the middle of it resets the answer.
//! * What the cluster refuses, such as a version that is too old, ends the watch
//!   with an `ERROR` event, as the API server would end it.
//! * The control plane is asked first: who may not go on, or not as before, gets an `ERROR` event
//!   with the refusal. So does whoever is revoked while the watch goes on.
//! * A watch keeps its first time limit, however often it is resumed.
//! * When the replica leaves, a watch ends in order shortly before the end of the
//!   grace period.
//! * A watch-list (`sendInitialEvents`) that broke before its bookmark is asked for again from its start; what the
//!   client has is kept from it. If objects were changed or deleted meanwhile, the answer is reset before the bookmark.
//! * When no tunnel comes within the hold, the answer is reset: a clean end
//!   would say that the cluster ended the watch.
//! * Resumed are JSON (tables and partial metadata too) and protobuf; CBOR and
//!   compressed answers pass through and are reset by a break.

mod event;
mod frames;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod initial;
mod json;
mod position;
mod protobuf;
mod refusal;
mod request;
mod source;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time::Instant;
use tokio_util::sync::{ReusableBoxFuture, WaitForCancellationFutureOwned};

pub(super) use position::Position;
pub(super) use request::prepare;
pub(super) use source::Source;

use super::exchange::{Ahead, Exchange, Interrupted, Part};
use crate::{
    body::{ContentStream, CutShort},
    failure::Failure,
    headers,
    idle::Idle,
    scope::Scope,
    sessions::SessionEnded,
};
use frames::Frames;
use source::{Gone, Resumed};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// An exchange that lasts less counts as failed.
const MIN_LIFE_TIME: Duration = Duration::from_secs(1);
/// Exchanges in a row that may fail for another reason than their path to the agent.
const MAX_SHORT_LIVED: u32 = 5;

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Json,
    Protobuf,
}

impl Encoding {
    /// The encoding of a watch that can be read here.
    fn of(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        if status != StatusCode::OK
            || headers::content_length(headers).is_some()
            || headers.contains_key(header::CONTENT_ENCODING)
        {
            return None;
        }
        let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let mut parts = text.split(';').map(str::trim);
        match parts.next()? {
            JSON => Some(Self::Json),
            PROTOBUF => parts
                .any(|part| part == "stream=watch")
                .then_some(Self::Protobuf),
            _ => None,
        }
    }
}

/// The answer to a watch, through as many tunnels as it takes.
#[derive(Debug)]
pub(super) struct Watch {
    state: State,
    frames: Frames,
    ahead: Ahead,
    source: Arc<Source>,
    encoding: Encoding,
    content_type: HeaderValue,
    begun: Instant,
    /// Since when the present exchange goes on.
    since: Instant,
    /// Exchanges in a row that came to nothing.
    short: u32,
    idle: Idle,
    last_call: Pin<Box<WaitForCancellationFutureOwned>>,
}

#[derive(Debug)]
enum State {
    Live(Box<Exchange>),
    Resuming(ReusableBoxFuture<'static, Result<Resumed, Gone>>),
    Over,
}

/// The head of a watch's answer, if it is one that can be resumed.
#[derive(Debug)]
pub(super) struct Head {
    encoding: Encoding,
    content_type: HeaderValue,
}

impl Head {
    /// Recognises the head of an answer.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        Some(Self {
            encoding: Encoding::of(status, headers)?,
            content_type: headers.get(header::CONTENT_TYPE)?.clone(),
        })
    }
}

impl Watch {
    /// A watch whose answer has begun.
    pub(super) fn new(
        head: Head,
        position: Position,
        source: Source,
        (exchange, ahead): (Box<Exchange>, Ahead),
        idle: Duration,
    ) -> Self {
        let now = Instant::now();
        Self {
            state: State::Live(exchange),
            last_call: Box::pin(source.drain.last_called()),
            frames: Frames::new(head.encoding, position),
            ahead,
            source: Arc::new(source),
            encoding: head.encoding,
            content_type: head.content_type,
            begun: now,
            since: now,
            short: 0,
            idle: Idle::new(idle),
        }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>, scope: &mut Scope) -> Poll<Result<(), Gone>> {
        if self.frames.differ() {
            return Poll::Ready(Err(Gone::Differs));
        }
        if let Poll::Ready(failure) = scope.poll_ended(cx) {
            if self.frames.is_within_event() {
                return Poll::Ready(Err(SessionEnded(failure.message).into()));
            }
            self.deny(failure, scope);
            return Poll::Ready(Ok(()));
        }
        if self.is_called_last(cx) {
            scope.cut = false;
            self.state = State::Over;
            return Poll::Ready(Ok(()));
        }
        if let Some(data) = self.ahead.chunks.pop_front() {
            self.frames.push(data);
            return Poll::Ready(Ok(()));
        }
        if std::mem::take(&mut self.ahead.whole) {
            self.finish(scope);
            return Poll::Ready(Ok(()));
        }
        match &mut self.state {
            State::Live(exchange) => {
                let Poll::Ready(part) = exchange.poll_part(cx) else {
                    ready!(self.idle.poll(cx));
                    let silence = Interrupted::Silence(self.idle.limit());
                    return Poll::Ready(Err(silence.into()));
                };
                self.idle.progress();
                Poll::Ready(self.take(part, scope))
            }
            State::Resuming(resume) => {
                let resumed = ready!(resume.poll(cx));
                Poll::Ready(resumed.map(|resumed| self.go_on(resumed, scope)))
            }
            State::Over => Poll::Ready(Ok(())),
        }
    }

    /// Whether the replica is about to end, and the watch may: any server may end a watch between
    /// two events, and its client begins another.
    fn is_called_last(&mut self, cx: &mut Context<'_>) -> bool {
        self.last_call.as_mut().poll(cx).is_ready() && self.frames.point().is_some()
    }

    fn take(&mut self, part: Result<Part, Interrupted>, scope: &mut Scope) -> Result<(), Gone> {
        match part {
            Ok(Part::Data(data)) => self.frames.push(data),
            Ok(other) => {
                other.expect_trailer()?;
                self.finish(scope);
            }
            Err(error) => self.mend(error, scope)?,
        }
        Ok(())
    }

    /// The cluster ended the watch.
    fn finish(&mut self, scope: &mut Scope) {
        self.frames.end();
        scope.cut = false;
        if let State::Live(mut exchange) = std::mem::replace(&mut self.state, State::Over) {
            exchange.complete();
        }
    }

    /// The exchange broke: the watch is asked for again, if it is known where
    /// it stands.
    fn mend(&mut self, error: Interrupted, scope: &mut Scope) -> Result<(), Gone> {
        self.short = if self.since.elapsed() < MIN_LIFE_TIME {
            self.short + 1
        } else {
            0
        };
        let hopeless = !error.is_about_the_path() && self.short >= MAX_SHORT_LIVED;
        let point = self.frames.point();
        let Some(point) = point.filter(|_| error.is_mendable() && !hopeless) else {
            return Err(error.into());
        };
        let spent = self.begun.elapsed().as_secs();
        let again = request::again(&self.source.opening, &point, spent);
        tracing::debug!(%error, ?point, "watch lost its tunnel; resuming it");
        let Some(opening) = again else {
            // All was said, or its time is up: the cluster would end it now.
            scope.cut = false;
            self.state = State::Over;
            return Ok(());
        };
        let wait = source::pause(self.short.saturating_sub(1));
        let resume = (self.source.clone()).resume(opening, self.content_type.clone(), wait);
        self.state = State::Resuming(ReusableBoxFuture::new(resume));
        Ok(())
    }

    fn go_on(&mut self, resumed: Resumed, scope: &mut Scope) {
        match resumed {
            Resumed::Goes(exchange, ahead) => {
                scope.resumes += 1;
                self.source.metrics.resumed();
                tracing::debug!(resumes = scope.resumes, "watch resumed");
                self.frames.resume();
                self.ahead = ahead;
                self.since = Instant::now();
                self.state = State::Live(exchange);
            }
            Resumed::Refused(status, body) => {
                tracing::debug!(%status, "watch not resumed: the cluster refused it");
                self.frames.resume();
                self.frames
                    .push(refusal::event(self.encoding, status, &body));
                scope.cut = false;
                self.state = State::Over;
            }
            Resumed::Denied(failure) => {
                tracing::debug!(
                    reason = failure.message,
                    "watch not resumed: the caller is no longer allowed"
                );
                self.deny(failure, scope);
            }
        }
    }

    /// Ends the watch with an event that says why.
    fn deny(&mut self, failure: Failure, scope: &mut Scope) {
        let status = Bytes::from(failure.body(false));
        self.frames.resume();
        self.frames
            .push(refusal::event(self.encoding, failure.code, &status));
        scope.reason = failure.message;
        self.state = State::Over;
    }
}

impl ContentStream for Watch {
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        scope: &mut Scope,
    ) -> Poll<Option<Result<Bytes, CutShort>>> {
        loop {
            if let Some(data) = self.frames.pop() {
                scope.sent += data.len() as u64;
                return Poll::Ready(Some(Ok(data)));
            }
            if matches!(self.state, State::Over) {
                return Poll::Ready(None);
            }
            if let Err(error) = ready!(self.poll_more(cx, scope)) {
                scope.reason = error.to_string();
                self.state = State::Over;
                return Poll::Ready(Some(Err(CutShort::because(error))));
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Over) && self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_read_is_a_watch() {
        let of = |status: u16, pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.try_append(*name, value.parse().unwrap()).unwrap();
            }
            Encoding::of(StatusCode::from_u16(status).unwrap(), &headers)
        };
        let protobuf = "application/vnd.kubernetes.protobuf;stream=watch";

        assert_eq!(of(200, &[("content-type", JSON)]), Some(Encoding::Json));
        let charset = ("content-type", "application/json; charset=utf-8");
        assert_eq!(of(200, &[charset]), Some(Encoding::Json));
        assert_eq!(
            of(200, &[("content-type", protobuf)]),
            Some(Encoding::Protobuf)
        );
        assert_eq!(of(200, &[("content-type", PROTOBUF)]), None);
        assert_eq!(of(200, &[("content-type", "application/cbor-seq")]), None);
        assert_eq!(of(403, &[("content-type", JSON)]), None);
        assert_eq!(
            of(200, &[("content-type", JSON), ("content-length", "9")]),
            None
        );
        assert_eq!(
            of(200, &[("content-type", JSON), ("content-encoding", "gzip")]),
            None
        );
        assert_eq!(of(200, &[]), None);
    }
}
