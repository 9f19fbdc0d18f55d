//! An HTTP exchange with the agent on one call: the request's body goes out
//! while the answer comes in.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use prost::Message as _;
use proto::{
    agent::grpctool::{HttpResponse, ResumeAnswer, Segment, http_response::Message},
    google::rpc::Status,
    not_taken,
    sequence::{END, FieldNumber, HTTP, OutOfOrder, Sequence},
};
use router::{AgentId, Broken, Call, Event, Reader, Readers};
use runtime::drain::Drain;

use super::upload::{Upload, UploadError};
use crate::{failure::Failure, route::BoxError};

/// The head of an answer.
pub(super) type Head = proto::agent::prototool::HttpResponse;

/// Bytes of an answer that are read before its head is passed on. Each request in progress holds so many at most, and
/// callers have bounds of these (`places`).
pub(super) const LOOK_AHEAD_BYTES: usize = 64 << 10;

/// A part of the answer.
#[derive(Debug)]
pub(super) enum Part {
    /// Status and headers.
    Header(Head),
    /// Bytes of the body.
    Data(Bytes),
    /// The body is whole.
    Trailer,
    /// Bytes of an upgraded connection.
    UpgradeData(Bytes),
    /// A piece of a resumable connection.
    Segment(Segment),
    /// The agent has nothing more to say.
    End,
}

/// Why an exchange cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Interrupted {
    /// The client did not send its body.
    #[error("failed to read the request's body: {0}")]
    Client(BoxError),
    /// The client paused in the middle of its body.
    #[error("the request's body did not go on for {} s", .0.as_secs())]
    Pause(std::time::Duration),
    /// The call broke.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The agent could not do it.
    #[error("rpc error: code = {:?} desc = {}", tonic::Code::from_i32(.0.code), .0.message)]
    Agent(Status),
    /// The agent sent messages in a wrong order.
    #[error("the agent broke the tunnel protocol: {0}")]
    Order(#[from] OutOfOrder),
    /// The agent sent something that is no answer.
    #[error("the agent sent a malformed answer: {0}")]
    Malformed(String),
    /// Nothing came for too long.
    #[error("the agent sent nothing for {} s", .0.as_secs())]
    Silence(std::time::Duration),
    /// The caller may not go on.
    #[error("{}", .0.message)]
    Denied(Failure),
}

impl From<UploadError> for Interrupted {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Client(error) => Self::Client(error),
            UploadError::Pause(pause) => Self::Pause(pause),
            UploadError::Call => Self::Broken(Broken::Unused),
        }
    }
}

impl Interrupted {
    /// The body has another length than its headers announced.
    pub(super) fn wrong_length() -> Self {
        Self::Malformed("a body of another length than announced".into())
    }

    /// Whether the path to the agent is to blame, and another may do better.
    pub(super) fn is_about_the_path(&self) -> bool {
        let Self::Broken(broken) = self else {
            return false;
        };
        matches!(
            broken,
            Broken::Connection(_) | Broken::Peer(_) | Broken::Unused
        )
    }

    /// Whether the agent has not seen the request.
    pub(super) fn is_before_the_agent(&self) -> bool {
        matches!(self, Self::Broken(Broken::Unused))
    }

    /// Whether the agent says that the cluster's API has begun nothing of the request.
    pub(super) fn is_not_taken(&self) -> bool {
        matches!(self, Self::Agent(status) if not_taken::is_among(&status.details))
    }

    /// Whether the agent has another call bring what was asked for.
    pub(super) fn is_superseded(&self) -> bool {
        matches!(self, Self::Agent(status) if status.code == tonic::Code::Aborted as i32)
    }

    /// Whether what was read so far can be read on in another exchange: the
    /// path broke, or the agent lost its own connection.
    pub(super) fn is_mendable(&self) -> bool {
        self.is_about_the_path() || matches!(self, Self::Agent(_))
    }
}

/// What was here of an answer's body when its head was.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Bytes, in order.
    pub(super) chunks: VecDeque<Bytes>,
    /// Whether that is all.
    pub(super) whole: bool,
}

impl Ahead {
    /// Bytes that are here.
    pub(super) fn length(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// Checks that a whole body has the length that its headers announced.
    pub(super) fn expect_length(&self, announced: Option<u64>) -> Result<(), Interrupted> {
        if announced.is_none_or(|length| length == self.length()) {
            return Ok(());
        }
        Err(Interrupted::wrong_length())
    }
}

/// An exchange in progress. Dropping it before [`Self::complete`] cancels it at
/// the agent.
#[derive(Debug)]
pub(super) struct Exchange {
    call: Option<Reader>,
    order: Sequence,
    upload: Option<Upload>,
    /// The upload once it is over, if the body can be sent again.
    sent: Option<Upload>,
    uploaded: u64,
    /// What the agent says of an upgraded connection that can be resumed.
    resume: Option<Box<ResumeAnswer>>,
    drain: Drain,
}

impl Exchange {
    /// An exchange whose request header is on its way.
    pub(super) fn new(call: Call, upload: Option<Upload>, drain: Drain) -> Self {
        Self {
            call: Some(Reader::new(call)),
            order: Sequence::new(HTTP),
            upload,
            sent: None,
            uploaded: 0,
            resume: None,
            drain,
        }
    }

    /// Bytes of the request's body sent so far.
    pub(super) fn uploaded(&self) -> u64 {
        self.uploaded
    }

    /// Whether the request's body is on its way still.
    pub(super) fn is_uploading(&self) -> bool {
        self.upload.is_some()
    }

    /// The request's body from its beginning, if there is one and it was kept.
    pub(super) fn rewind(&mut self) -> Option<Upload> {
        let upload = self.sent.take().or_else(|| self.upload.take());
        upload.and_then(Upload::rewind)
    }

    /// The method by which the agent process is asked for answers that it has kept, where it has one.
    pub(super) fn answers(&mut self) -> Option<Arc<str>> {
        self.with(|call| call.answers()).ok().flatten()
    }

    /// Says, after the body if there is one, that nothing more follows.
    pub(super) fn close_send(&mut self) -> Result<(), Interrupted> {
        match &mut self.upload {
            Some(upload) => upload.close_behind(),
            None => self.with(Call::close_send)??,
        }
        Ok(())
    }

    /// Counts what is not read of the answer among what its caller leaves unread.
    pub(super) fn count(&mut self, readers: &Arc<Readers>, agent: AgentId, caller: &Arc<str>) {
        self.call().count(readers, agent, caller);
    }

    /// Does something with the call.
    pub(super) fn with<T>(&mut self, act: impl FnOnce(&mut Call) -> T) -> Result<T, Broken> {
        self.call().with(act)
    }

    fn call(&mut self) -> &mut Reader {
        self.call
            .as_mut()
            .expect("only complete and drop take the call")
    }

    /// Waits for the head of the answer.
    pub(super) async fn head(&mut self) -> Result<Head, Interrupted> {
        match poll_fn(|cx| self.poll_part(cx)).await? {
            Part::Header(head) => {
                self.sent = None;
                if let Some(upload) = &mut self.upload {
                    upload.may_pause();
                    upload.forget();
                }
                Ok(head)
            }
            part => unreachable!("the sequence begins with a header, not with {part:?}"),
        }
    }

    /// The next part of the answer; the request's body moves on meanwhile.
    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Interrupted>> {
        self.poll_upload(cx)?;
        loop {
            let event = ready!(self.call().poll_event(cx))?;
            let bytes = match event {
                Event::Header(_) | Event::Trailer(_) => continue,
                Event::Message(bytes) => bytes,
                Event::Error(status) => return Poll::Ready(Err(Interrupted::Agent(status))),
                Event::End => {
                    self.order.step(END)?;
                    return Poll::Ready(Ok(Part::End));
                }
            };
            return Poll::Ready(self.understand(bytes));
        }
    }

    /// What the head of the answer said of a connection that can be resumed.
    pub(super) fn take_resume(&mut self) -> Option<Box<ResumeAnswer>> {
        self.resume.take()
    }

    /// Waits for the end of a call that has nothing more to say, for a while.
    pub(super) async fn finish(mut self) {
        if let Some(call) = self.call.take().and_then(Reader::into_call) {
            call.finish().await;
        }
    }

    /// Takes what is here already, up to a limit.
    pub(super) fn look_ahead(&mut self) -> Result<Ahead, Interrupted> {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut ahead, mut taken) = (Ahead::default(), 0);
        while taken < LOOK_AHEAD_BYTES {
            match self.poll_part(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(part) => match part? {
                    Part::Data(data) => {
                        taken += data.len();
                        ahead.chunks.push_back(data);
                    }
                    other => {
                        other.expect_trailer()?;
                        ahead.whole = true;
                        break;
                    }
                },
            }
        }
        Ok(ahead)
    }

    /// Waits for the rest of a body of this length. Cancel-safe: what has come stays in `ahead`.
    pub(super) async fn rest(&mut self, ahead: &mut Ahead, length: u64) -> Result<(), Interrupted> {
        while !ahead.whole && ahead.length() < length {
            match poll_fn(|cx| self.poll_part(cx)).await? {
                Part::Data(data) => ahead.chunks.push_back(data),
                other => {
                    other.expect_trailer()?;
                    ahead.whole = true;
                }
            }
        }
        ahead.whole = true;
        ahead.expect_length(Some(length))
    }

    /// The client has what it needs: the call is ended in order, here or, if
    /// the agent takes its time, in the background.
    pub(super) fn complete(&mut self) {
        if self.upload.is_some() {
            // The rest of the request is not needed: the call is cancelled.
            return;
        }
        let Some(mut call) = self.call.take().and_then(Reader::into_call) else {
            return;
        };
        // Without a runtime nothing can wait for the rest.
        if !call.finish_now() && tokio::runtime::Handle::try_current().is_ok() {
            self.drain.spawn(call.finish());
        }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Interrupted> {
        let (Some(upload), Some(call)) = (&mut self.upload, &mut self.call) else {
            return Ok(());
        };
        let uploaded = &mut self.uploaded;
        let polled = call.with(|call| upload.poll(call, uploaded, cx));
        match polled.unwrap_or(Poll::Ready(Err(UploadError::Call))) {
            Poll::Pending => {}
            // If the call is gone, the answer says why.
            Poll::Ready(Ok(()) | Err(UploadError::Call)) => self.sent = self.upload.take(),
            Poll::Ready(Err(error @ (UploadError::Client(_) | UploadError::Pause(_)))) => {
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn understand(&mut self, bytes: Bytes) -> Result<Part, Interrupted> {
        let malformed = |error: &str| Interrupted::Malformed(error.to_owned());
        let message = HttpResponse::decode(bytes)
            .map_err(|error| malformed(&error.to_string()))?
            .message
            .ok_or_else(|| malformed("a message without content"))?;
        self.order.step(message.field_number())?;
        Ok(match message {
            Message::Header(header) => {
                let head = header.response;
                self.resume = header.resume.map(Box::new);
                Part::Header(head.ok_or_else(|| malformed("a header without a response"))?)
            }
            Message::Data(data) => Part::Data(data.data),
            Message::Trailer(_) => Part::Trailer,
            Message::UpgradeData(data) => Part::UpgradeData(data.data),
            Message::Segment(segment) => Part::Segment(segment),
        })
    }
}

impl Part {
    /// Checks that nothing but the end of the body is here.
    pub(super) fn expect_trailer(&self) -> Result<(), Interrupted> {
        match self {
            Self::Trailer => Ok(()),
            other @ (Self::Header(_)
            | Self::Data(_)
            | Self::UpgradeData(_)
            | Self::Segment(_)
            | Self::End) => Err(Interrupted::Malformed(format!(
                "{other:?} in place of a trailer"
            ))),
        }
    }
}
