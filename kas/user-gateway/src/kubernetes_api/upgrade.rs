//! An upgraded connection (exec, attach, port-forward): bytes both ways.

mod channels;
mod farewell;
mod link;
mod pings;
mod recorder;

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use runtime::websocket::messages::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::io::poll_read_buf;

use super::{
    exchange::{Interrupted, Part},
    failure,
};
use crate::{failure::Failure, idle::Idle, metrics::FailureStatus, scope::Scope};
pub(super) use farewell::Farewell;
pub(super) use link::{Link, Offer, Source};
pub(super) use pings::Pings;
pub(super) use recorder::Recorder;

/// Bytes of one message to the agent, at most.
const CHUNK_BYTES: usize = 32 << 10;
/// How long the switch of protocols may take.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client that has been told the end may take to read it.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the agent may be silent after the client has closed its side. A cluster ends a connection whose client is
/// gone, as soon as it hears of it; this is for one that does not.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long the answer of an agent that takes nothing more may go on. It says how the call has ended.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long nothing may go to the client before it is sent a ping: half of what load balancers commonly allow.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Takes over the client's connection once the 101 is written, and carries
/// bytes until either side ends, or the session is ended, or the way to the cluster breaks, of which `farewell` tells the
/// client.
pub(super) async fn run(
    link: Link,
    on_upgrade: OnUpgrade,
    (farewell, pings, mut recorder): (Option<Farewell>, Option<Pings>, Option<Recorder>),
    mut scope: Box<Scope>,
) {
    scope.cut = true;
    match tokio::time::timeout(SWITCH_TIMEOUT, on_upgrade).await {
        Ok(Ok(upgraded)) => {
            let io = TokioIo::new(upgraded);
            let said = (farewell, pings, recorder);
            (scope, recorder) = Splice::new(link, io, said, scope).run().await;
        }
        Ok(Err(error)) => {
            scope.left(format!("the client left before the upgrade: {error}"));
        }
        Err(_) => scope.left("the client did not take the upgrade in time"),
    }
    if let Some(recorder) = recorder {
        scope.recorded(recorder.finish().await);
    }
}

/// How it ends.
enum Over {
    /// Either side has ended it.
    Done,
    /// The session was ended.
    Ended(Failure),
    /// Its caller may not go on where it broke.
    Denied(Failure),
    /// The way to the cluster broke, or the cluster did.
    Broken(Failure),
}

/// What cannot go on.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    /// The client's connection.
    #[error(transparent)]
    Client(#[from] io::Error),
    /// The call.
    #[error(transparent)]
    Call(#[from] Interrupted),
}

struct Splice<IO> {
    link: Link,
    io: IO,
    scope: Box<Scope>,
    buffer: BytesMut,
    /// For the client.
    outgoing: VecDeque<Bytes>,
    /// For the agent.
    unsent: Bytes,
    /// Why the agent takes nothing more; until when its answer may go on.
    refused: Option<(Interrupted, Idle)>,
    unflushed: bool,
    agent_done: bool,
    /// Runs once the client has closed its side.
    client_done: Option<Idle>,
    farewell: Option<Farewell>,
    /// Where the protocol has some.
    pings: Option<Pings>,
    /// Since something went to the client.
    quiet: Idle,
    recorder: Option<Recorder>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Splice<IO> {
    fn new(
        link: Link,
        io: IO,
        (farewell, pings, recorder): (Option<Farewell>, Option<Pings>, Option<Recorder>),
        scope: Box<Scope>,
    ) -> Self {
        Self {
            link,
            io,
            scope,
            buffer: BytesMut::new(),
            outgoing: VecDeque::new(),
            unsent: Bytes::new(),
            refused: None,
            unflushed: false,
            agent_done: false,
            client_done: None,
            farewell,
            pings,
            quiet: Idle::new(PING_INTERVAL),
            recorder,
        }
    }

    /// Carries bytes until the end, and gives back what is told of it.
    async fn run(mut self) -> (Box<Scope>, Option<Recorder>) {
        match poll_fn(|cx| self.poll(cx)).await {
            Ok(Over::Done) => self.scope.cut = false,
            Ok(Over::Ended(failure)) => {
                let (_, scope, recorder) = self.leave(failure, CloseCode::Policy, true).await;
                return (scope, recorder);
            }
            Ok(Over::Denied(failure)) if !self.is_told() => {
                let (_, scope, recorder) = self.leave(failure, CloseCode::Policy, false).await;
                return (scope, recorder);
            }
            Ok(Over::Denied(failure) | Over::Broken(failure)) => return self.breaks(failure).await,
            Err(error) => self.scope.left(error.to_string()),
        }
        self.scope.resumes = self.link.resumes();
        (self.scope, self.recorder)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Over>> {
        if let Poll::Ready(failure) = self.scope.poll_ended(cx) {
            self.scope.wanted = true;
            return Poll::Ready(Ok(Over::Ended(failure)));
        }
        if let Some(recorder) = &mut self.recorder
            && let Poll::Ready(failure) = recorder.poll_failed(cx)
        {
            return Poll::Ready(Ok(Over::Ended(failure)));
        }
        if self.client_done.is_none()
            && self.refused.is_none()
            && let Poll::Ready(result) = self.poll_to_agent(cx)
        {
            match result {
                Ok(()) => self.client_done = Some(Idle::new(HALF_CLOSED_TIMEOUT)),
                Err(Stopped::Client(error)) => return Poll::Ready(Err(error)),
                // The answer may be here, and says more.
                Err(Stopped::Call(error)) => {
                    self.refused = Some((error, Idle::new(LAST_ANSWER_TIMEOUT)));
                }
            }
        }
        // A client that does not read must not keep the agent from hearing what came of its bytes.
        self.link.drive(cx);
        if let Poll::Ready(result) = self.poll_to_client(cx) {
            return Poll::Ready(match result {
                Ok(()) => Ok(self.is_done()),
                Err(Stopped::Client(error)) => Err(error),
                Err(Stopped::Call(error)) => Ok(broken(&error)),
            });
        }
        if let Some((error, idle)) = &mut self.refused {
            // What is here waits for the client, whose connection has limits of its own.
            if self.agent_done || !self.outgoing.is_empty() {
                idle.progress();
                return Poll::Pending;
            }
            ready!(idle.poll(cx));
            return Poll::Ready(Ok(broken(error)));
        }
        if let Some(idle) = &mut self.client_done {
            ready!(idle.poll(cx));
            let silence = format!("the agent sent nothing for {} s", idle.limit().as_secs());
            let silence = format!("the client has closed its side, and {silence}");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, silence)));
        }
        Poll::Pending
    }

    /// Whether a client that is there has not heard how its command ended, and would take the end for success.
    fn lacks_status(&self) -> bool {
        let farewell = self.farewell.as_ref();
        self.client_done.is_none() && farewell.is_some_and(Farewell::lacks_status)
    }

    /// Whether the client has heard how its command ended.
    fn is_told(&self) -> bool {
        self.farewell.as_ref().is_some_and(Farewell::is_told)
    }

    /// The agent has closed its side in order.
    fn is_done(&self) -> Over {
        if !self.lacks_status() {
            return Over::Done;
        }
        let message = "the cluster ended the connection without saying how the command ended; \
                       the outcome is unknown";
        Over::Broken(Failure::new(StatusCode::BAD_GATEWAY, message))
    }

    /// Ends the call, and tells the client that the connection broke, unless it knows all there is to know.
    async fn breaks(self, failure: Failure) -> (Box<Scope>, Option<Recorder>) {
        if self.is_told() {
            let Self {
                link,
                mut io,
                outgoing,
                mut scope,
                recorder,
                ..
            } = self;
            scope.resumes = link.resumes();
            drop(link);
            // What told it may not be written yet.
            let rest = async {
                for bytes in outgoing {
                    io.write_all(&bytes).await?;
                    scope.sent += bytes.len() as u64;
                }
                io.shutdown().await
            };
            let written = tokio::time::timeout(LAST_WRITE_TIMEOUT, rest).await;
            if !matches!(written, Ok(Ok(()))) {
                tracing::debug!("the client did not read the end of an upgraded connection");
            }
            scope.reason = failure.message;
            return (scope, recorder);
        }
        // Whoever has closed their side was about to leave, and the cluster ends such a connection as it likes.
        let closed = self.client_done.is_some();
        let (status, scope, recorder) = self.leave(failure, CloseCode::Internal, false).await;
        if !closed {
            scope.broke(status);
        }
        (scope, recorder)
    }

    /// Ends the call, and tells the client why; the call may bring the rest of a frame, if it goes on.
    async fn leave(
        self,
        failure: Failure,
        code: CloseCode,
        goes_on: bool,
    ) -> (FailureStatus, Box<Scope>, Option<Recorder>) {
        let Self {
            link,
            mut io,
            mut scope,
            outgoing,
            farewell,
            recorder,
            ..
        } = self;
        scope.resumes = link.resumes();
        let link = goes_on.then_some(link);
        let status = match farewell {
            None => FailureStatus::NotSent,
            Some(farewell) => {
                let why = (&failure, code);
                farewell.say(why, link, &mut io, outgoing).await
            }
        };
        scope.reason = failure.message;
        (status, scope, recorder)
    }

    /// Ready when the client has closed its side and the agent knows.
    fn poll_to_agent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            if !self.unsent.is_empty() {
                let length = self.unsent.len() as u64;
                ready!(self.link.poll_send(cx, &mut self.unsent))?;
                self.scope.received += length;
            }
            if let Some(recorder) = &mut self.recorder {
                ready!(recorder.poll_room(cx));
            }
            self.buffer.reserve(CHUNK_BYTES);
            let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.buffer))?;
            if read == 0 {
                self.link.close_send()?;
                return Poll::Ready(Ok(()));
            }
            self.unsent = self.buffer.split().freeze();
            if let Some(farewell) = &mut self.farewell {
                farewell.read_sent(&self.unsent);
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.read_sent(&self.unsent);
            }
        }
    }

    /// Ready when the agent has closed its side and the client has all it sent.
    fn poll_to_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            ready!(self.poll_write(cx))?;
            if self.agent_done {
                if self.lacks_status() {
                    return Poll::Ready(Ok(()));
                }
                let shutdown = Pin::new(&mut self.io).poll_shutdown(cx);
                // A client that is gone needs no end of its stream.
                return shutdown.map(|_| Ok(()));
            }
            if let Some(recorder) = &mut self.recorder {
                ready!(recorder.poll_room(cx));
            }
            match self.link.poll_part(cx) {
                Poll::Ready(Ok(Part::UpgradeData(data))) => {
                    if let Some(idle) = &mut self.client_done {
                        idle.progress();
                    }
                    self.is_sending(data);
                }
                Poll::Ready(Ok(Part::End)) => self.agent_done = true,
                Poll::Ready(Ok(
                    Part::Header(_) | Part::Data(_) | Part::Trailer | Part::Segment(_),
                )) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    ready!(self.poll_ping(cx));
                }
            }
        }
    }

    /// Ready when all that is for the client is written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(bytes) = self.outgoing.front() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
            self.scope.sent += written as u64;
            self.unflushed = true;
            if let Some(bytes) = self.outgoing.front_mut() {
                if let Some(farewell) = &mut self.farewell {
                    farewell.wrote(&bytes[..written]);
                }
                bytes.advance(written);
                if bytes.is_empty() {
                    self.outgoing.pop_front();
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when there is a ping to be sent.
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pings) = &mut self.pings else {
            return Poll::Pending;
        };
        loop {
            ready!(self.quiet.poll(cx));
            self.quiet.progress();
            if let Some(ping) = pings.next() {
                self.outgoing.push_back(ping);
                return Poll::Ready(());
            }
        }
    }

    fn is_sending(&mut self, data: Bytes) {
        if let Some(recorder) = &mut self.recorder {
            recorder.read_answered(&data);
        }
        if let Some(pings) = &mut self.pings {
            pings.follow(&data);
            self.quiet.progress();
        }
        match &mut self.farewell {
            _ if data.is_empty() => {}
            Some(farewell) => farewell.pass(data, &mut self.outgoing),
            None => self.outgoing.push_back(data),
        }
    }
}

fn broken(error: &Interrupted) -> Over {
    match error {
        Interrupted::Denied(failure) => Over::Denied(failure.clone()),
        error => Over::Broken(failure::of_interruption(error, false)),
    }
}
