//! What carries an upgraded connection to the agent: one call, or with an agent that can resume it one after the other.

mod source;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use proto::{agent::grpctool::Segment, frame::Payload, segment};
use router::{Broken, Call};
use runtime::resume::{Endpoint, Received, Violation};
use tokio::time::{Instant, Sleep};
use tracing::Span;

use crate::kubernetes_api::{
    exchange::{Exchange, Interrupted, Part},
    further_calls::Unmade,
};
use source::Attached;
pub(in crate::kubernetes_api) use source::{Offer, Source};

/// Bytes of one message to the agent, at most.
const CHUNK_BYTES: usize = 32 << 10;
/// `HttpRequest.upgradeData`, `UpgradeData.data`.
const DATA: &[u32] = &[4, 1];
/// A call that breaks sooner than so long after it took makes the next one wait.
const QUICK: Duration = Duration::from_secs(1);
/// How long what was passed on may wait for company before it is acknowledged.
const ACKNOWLEDGE_DELAY: Duration = Duration::from_millis(100);

/// What carries an upgraded connection.
pub(in crate::kubernetes_api) enum Link {
    /// One call, with which it ends.
    Single(Box<Exchange>),
    /// Any number of calls.
    Resumable(Box<Resumable>),
}

impl Link {
    /// Carried by this call, and by others once that breaks, if the agent has taken the offer.
    pub(in crate::kubernetes_api) fn new(
        mut exchange: Box<Exchange>,
        source: impl FnOnce(Box<str>) -> Option<Source>,
        span: &Span,
    ) -> Self {
        let answer = exchange.take_resume();
        let source = answer.and_then(|answer| source(answer.method.into()));
        match source {
            None => Self::Single(exchange),
            Some(source) => Self::Resumable(Box::new(Resumable {
                endpoint: Endpoint::default(),
                state: State::Attached(exchange),
                source: Arc::new(source),
                attachment: Offer::FIRST,
                resumes: 0,
                attached_at: Instant::now(),
                quick: 0,
                acknowledge: None,
                failed: None,
                span: span.clone(),
            })),
        }
    }

    /// How often it was resumed.
    pub(super) fn resumes(&self) -> u32 {
        match self {
            Self::Single(_) => 0,
            Self::Resumable(it) => it.resumes,
        }
    }

    /// Sends bytes when there is room for them, and leaves none.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<Result<(), Interrupted>> {
        match self {
            Self::Single(exchange) => {
                let length = bytes.len();
                ready!(exchange.with(|call| call.poll_ready(cx, length))?)?;
                let payload = Payload::nested(DATA, std::mem::take(bytes));
                exchange.with(|call| call.start_send(payload))??;
            }
            Self::Resumable(it) => {
                it.drive(cx);
                if !it.has_room(bytes.len()) {
                    return Poll::Pending;
                }
                it.endpoint.send(std::mem::take(bytes));
                it.drive(cx);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says that the client sends nothing more.
    pub(super) fn close_send(&mut self) -> Result<(), Interrupted> {
        match self {
            Self::Single(exchange) => exchange.with(Call::close_send)??,
            Self::Resumable(it) => it.endpoint.finish(),
        }
        Ok(())
    }

    /// Moves on what needs no client: bytes that the agent has not acknowledged, and what it acknowledges.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Single(_) => {}
            Self::Resumable(it) => it.drive(cx),
        }
    }

    /// The next part of what comes from the agent.
    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Interrupted>> {
        match self {
            Self::Single(exchange) => match ready!(exchange.poll_part(cx)) {
                Ok(Part::Segment(_)) => {
                    let what = "a segment of a connection that is not resumable";
                    Poll::Ready(Err(Interrupted::Malformed(what.into())))
                }
                part => Poll::Ready(part),
            },
            Self::Resumable(it) => it.poll_part(cx),
        }
    }
}

/// An upgraded connection that is attached to one call after the other.
///
/// When it is dropped the agent is told that it is over.
pub(in crate::kubernetes_api) struct Resumable {
    endpoint: Endpoint,
    state: State,
    source: Arc<Source>,
    attachment: u64,
    resumes: u32,
    /// When the present call took, and how many before it broke soon after they had.
    attached_at: Instant,
    quick: u32,
    acknowledge: Option<Pin<Box<Sleep>>>,
    /// Why it cannot go on, behind what has come.
    failed: Option<Interrupted>,
    span: Span,
}

enum State {
    Attached(Box<Exchange>),
    /// Its call broke for this reason.
    Attaching(BoxFuture<'static, Result<Attached, Unmade>>, Interrupted),
    /// The agent does not have it any more.
    Over,
}

impl Resumable {
    fn has_room(&self, length: usize) -> bool {
        self.endpoint.room() >= length || self.endpoint.unacknowledged() == 0
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Interrupted>> {
        self.drive(cx);
        Poll::Ready(match self.endpoint.take() {
            Some(Received::Data(data)) => Ok(Part::UpgradeData(data)),
            Some(Received::End) => {
                // What it acknowledges has to leave.
                self.drive(cx);
                Ok(Part::End)
            }
            None => match self.failed.take() {
                Some(error) => Err(error),
                None => return Poll::Pending,
            },
        })
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        loop {
            match &mut self.state {
                State::Over => return,
                State::Attaching(attaching, _) => {
                    let Poll::Ready(attached) = attaching.as_mut().poll(cx) else {
                        return;
                    };
                    self.attached(attached);
                }
                State::Attached(_) => match self.poll_exchange(cx) {
                    Ok(()) => return,
                    Err(error) if error.is_about_the_path() => self.resume(error),
                    Err(error) => self.fail(error),
                },
            }
        }
    }

    /// Its call broke.
    fn resume(&mut self, error: Interrupted) {
        tracing::debug!(parent: &self.span, %error, "upgraded connection lost its tunnel; resuming it");
        let position = (self.attachment, self.endpoint.received());
        self.quick = match self.attached_at.elapsed() < QUICK {
            true => self.quick.saturating_add(1),
            false => 0,
        };
        let attaching = self.source.clone().attach(position, self.quick);
        self.acknowledge = None;
        self.state = State::Attaching(Box::pin(attaching), error);
    }

    fn attached(&mut self, attached: Result<Attached, Unmade>) {
        let state = std::mem::replace(&mut self.state, State::Over);
        let State::Attaching(_, broke) = state else {
            return;
        };
        match attached {
            Ok(Attached {
                exchange,
                attachment,
                received,
            }) => {
                self.attachment = attachment;
                self.attached_at = Instant::now();
                if let Err(violation) = self.endpoint.attach(received) {
                    self.fail(malformed(violation));
                    return;
                }
                self.state = State::Attached(exchange);
                self.resumes += 1;
                self.source.count_resumed();
                if self.resumes == 1 {
                    tracing::info!(parent: &self.span, "upgraded connection resumed on another tunnel");
                } else {
                    let resumes = self.resumes;
                    tracing::debug!(parent: &self.span, resumes, "upgraded connection resumed again");
                }
            }
            Err(Unmade::Denied(failure)) => self.fail(Interrupted::Denied(failure)),
            Err(Unmade::Lost(why)) => {
                tracing::debug!(parent: &self.span, why, "upgraded connection not resumed");
                self.fail(broke);
            }
        }
    }

    fn fail(&mut self, error: Interrupted) {
        // A call that is there is left in order: the agent is to hear that it is over.
        if !matches!(self.state, State::Attached(_)) {
            self.state = State::Over;
        } else if let State::Attached(exchange) = std::mem::replace(&mut self.state, State::Over) {
            self.source.leave(exchange);
        }
        self.failed = Some(error);
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Result<(), Interrupted> {
        let Self {
            endpoint,
            state: State::Attached(exchange),
            acknowledge,
            ..
        } = self
        else {
            return Ok(());
        };
        while let Poll::Ready(part) = exchange.poll_part(cx) {
            match part? {
                Part::Segment(segment) => endpoint.receive(segment).map_err(malformed)?,
                Part::Trailer | Part::Header(_) => {}
                // The agent has ended it, and all was acknowledged.
                Part::End if endpoint.is_received() => {
                    self.state = State::Over;
                    return Ok(());
                }
                Part::End => {
                    let early = "the stream ended before the connection did";
                    return Err(Broken::Connection(early.into()).into());
                }
                Part::Data(_) | Part::UpgradeData(_) => {
                    let what = "bytes of a resumable connection outside of its segments";
                    return Err(Interrupted::Malformed(what.into()));
                }
            }
        }
        if endpoint.owes_acknowledgement() {
            let delay = || Box::pin(tokio::time::sleep(ACKNOWLEDGE_DELAY));
            let sleep = acknowledge.get_or_insert_with(delay);
            if sleep.as_mut().poll(cx).is_ready() {
                *acknowledge = None;
                endpoint.acknowledge();
            }
        } else {
            *acknowledge = None;
        }
        while let Some(length) = endpoint.next_length(CHUNK_BYTES) {
            let ready = exchange.with(|call| call.poll_ready(cx, length))?;
            let Poll::Ready(ready) = ready else {
                break;
            };
            ready?;
            let Some(next) = endpoint.next_segment(CHUNK_BYTES) else {
                break;
            };
            exchange.with(|call| call.start_send(segment::payload(next)))??;
        }
        Ok(())
    }
}

impl Drop for Resumable {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Attached(exchange) => self.source.leave(exchange),
            State::Attaching(attaching, _) => self.source.leave_when_attached(attaching),
            State::Over => {}
        }
    }
}

/// The last word on a connection.
fn over() -> Payload {
    segment::payload(Segment {
        over: true,
        ..Segment::default()
    })
}

fn malformed(violation: Violation) -> Interrupted {
    Interrupted::Malformed(violation.to_string())
}
