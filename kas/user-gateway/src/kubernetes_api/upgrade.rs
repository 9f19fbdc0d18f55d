//! An upgraded connection (exec, attach, port-forward): bytes both ways.

mod channels;
mod farewell;
mod pings;
mod recorder;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proto::frame::Payload;
use router::Call;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::exchange::{Exchange, Part};
use crate::{failure::Failure, idle::Idle, scope::Scope};
pub(super) use farewell::Farewell;
pub(super) use pings::Pings;
pub(super) use recorder::Recorder;

/// Bytes of one message to the agent, at most.
const CHUNK_BYTES: usize = 32 << 10;
/// `HttpRequest.upgradeData`, `UpgradeData.data`.
const DATA: &[u32] = &[4, 1];
/// How long the switch of protocols may take.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client may leave a write waiting.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the agent may be silent after the client has closed its side. A cluster ends a connection whose client is
/// gone, as soon as it hears of it; this is for one that does not.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long nothing may go to the client before it is sent a ping: half of what load balancers commonly allow.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Takes over the client's connection once the 101 is written, and carries
/// bytes until either side ends, or the session is ended, of which `farewell` tells the client.
pub(super) async fn run(
    exchange: Box<Exchange>,
    on_upgrade: OnUpgrade,
    (farewell, pings, mut recorder): (Option<Farewell>, Option<Pings>, Option<Recorder>),
    mut scope: Box<Scope>,
) {
    scope.cut = true;
    match tokio::time::timeout(SWITCH_TIMEOUT, on_upgrade).await {
        Ok(Ok(upgraded)) => {
            let io = TokioIo::new(upgraded);
            let said = (farewell, pings, recorder);
            (scope, recorder) = Splice::new(exchange, io, said, scope).run().await;
        }
        Ok(Err(error)) => {
            scope.reason = format!("the client left before the upgrade: {error}");
        }
        Err(_) => scope.reason = "the client did not take the upgrade in time".into(),
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
}

struct Splice<IO> {
    exchange: Box<Exchange>,
    io: IO,
    scope: Box<Scope>,
    buffer: BytesMut,
    /// For the client.
    outgoing: Bytes,
    /// For the agent.
    unsent: Bytes,
    unflushed: bool,
    stalled: Idle,
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
        exchange: Box<Exchange>,
        io: IO,
        (farewell, pings, recorder): (Option<Farewell>, Option<Pings>, Option<Recorder>),
        scope: Box<Scope>,
    ) -> Self {
        Self {
            exchange,
            io,
            scope,
            buffer: BytesMut::new(),
            outgoing: Bytes::new(),
            unsent: Bytes::new(),
            unflushed: false,
            stalled: Idle::new(WRITE_TIMEOUT),
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
            Ok(Over::Ended(failure)) => return self.leave(failure).await,
            Err(error) => self.scope.reason = error.to_string(),
        }
        (self.scope, self.recorder)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Over>> {
        if let Poll::Ready(failure) = self.scope.poll_ended(cx) {
            return Poll::Ready(Ok(Over::Ended(failure)));
        }
        if let Some(recorder) = &mut self.recorder
            && let Poll::Ready(failure) = recorder.poll_failed(cx)
        {
            return Poll::Ready(Ok(Over::Ended(failure)));
        }
        if self.client_done.is_none()
            && let Poll::Ready(result) = self.poll_to_agent(cx)
        {
            result?;
            self.client_done = Some(Idle::new(HALF_CLOSED_TIMEOUT));
        }
        if let Poll::Ready(result) = self.poll_to_client(cx) {
            return Poll::Ready(result.map(|()| Over::Done));
        }
        if let Some(idle) = &mut self.client_done {
            ready!(idle.poll(cx));
            let silence = format!("the agent sent nothing for {} s", idle.limit().as_secs());
            let silence = format!("the client has closed its side, and {silence}");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, silence)));
        }
        Poll::Pending
    }

    /// Ends the call, and tells the client why.
    async fn leave(self, failure: Failure) -> (Box<Scope>, Option<Recorder>) {
        let Self {
            exchange,
            mut io,
            mut scope,
            outgoing,
            farewell,
            recorder,
            ..
        } = self;
        scope.reason.clone_from(&failure.message);
        if let Some(farewell) = farewell {
            farewell.say(&failure, exchange, &mut io, outgoing).await;
        }
        (scope, recorder)
    }

    /// Ready when the client has closed its side and the agent knows.
    fn poll_to_agent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.unsent.is_empty() {
                let length = self.unsent.len();
                let ready = (self.exchange).with(|call| call.poll_ready(cx, length));
                ready!(ready.map_err(io::Error::other)?).map_err(io::Error::other)?;
                let bytes = std::mem::take(&mut self.unsent);
                self.scope.received += bytes.len() as u64;
                let sent =
                    (self.exchange).with(|call| call.start_send(Payload::nested(DATA, bytes)));
                sent.and_then(|sent| sent).map_err(io::Error::other)?;
            }
            if let Some(recorder) = &mut self.recorder {
                ready!(recorder.poll_room(cx));
            }
            self.buffer.reserve(CHUNK_BYTES);
            let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.buffer))?;
            if read == 0 {
                let closed = self.exchange.with(Call::close_send);
                return Poll::Ready(closed.and_then(|closed| closed).map_err(io::Error::other));
            }
            self.unsent = self.buffer.split().freeze();
            if let Some(recorder) = &mut self.recorder {
                recorder.read_sent(&self.unsent);
            }
        }
    }

    /// Ready when the agent has closed its side and the client knows.
    fn poll_to_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.agent_done {
                let shutdown = Pin::new(&mut self.io).poll_shutdown(cx);
                // A client that is gone needs no end of its stream.
                return self.in_time(shutdown, cx).map(|_| Ok(()));
            }
            while !self.outgoing.is_empty() {
                let write = Pin::new(&mut self.io).poll_write(cx, &self.outgoing);
                let written = ready!(self.in_time(write, cx))?;
                self.scope.sent += written as u64;
                if let Some(farewell) = &mut self.farewell {
                    farewell.sent(&self.outgoing[..written]);
                }
                self.outgoing.advance(written);
                self.unflushed = true;
            }
            if let Some(recorder) = &mut self.recorder {
                ready!(recorder.poll_room(cx));
            }
            match self.exchange.poll_part(cx) {
                Poll::Ready(Ok(Part::UpgradeData(data))) => {
                    if let Some(idle) = &mut self.client_done {
                        idle.progress();
                    }
                    self.is_sending(data);
                }
                Poll::Ready(Ok(Part::End)) => self.agent_done = true,
                Poll::Ready(Ok(Part::Header(_) | Part::Data(_) | Part::Trailer)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Pending => {
                    if self.unflushed {
                        let flush = Pin::new(&mut self.io).poll_flush(cx);
                        ready!(self.in_time(flush, cx))?;
                        self.unflushed = false;
                    }
                    ready!(self.poll_ping(cx));
                }
            }
        }
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
                self.outgoing = ping;
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
        self.outgoing = data;
    }

    /// Turns a write that waits too long into an error.
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
