//! One connection of an agent, or of a load balancer that carries several.
//!
//! The connection's task drives HTTP/2 and everything parked on it. Calls in
//! progress belong to the requests that make them; they only need this task to
//! move their bytes.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::Request;
use proto::{frame::Frame, receptive::rpc::receptive_server::ReceptiveServer};
use router::{
    AgentId,
    tunnel::{IdleEnd, Offer, Stream},
};
use runtime::{
    backoff::jittered,
    drain::{Drain, Working},
    grpc::{Pace, Pings, SendResponse, ServerConnection, UNKNOWN_TIMEOUT, answer, receive},
    io::{ByteStream, Heard},
    listen::{Accepted, Scheme},
    telemetry::{Repeats, Untrusted},
};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    AgentApi,
    authenticate::{self, Shown},
    caller::{Caller, Callers, Known, Place},
    collector, configuration, connect,
    dialled::Dialled,
    flux,
    idle::Idle,
    leaving,
    method::Method,
    registrar,
    relay::{self, Relay},
};
use crate::control_plane::{AgentInfo, TokenHash};

/// How long the HTTP/2 handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pings, as GitLab's kas sends them; but a call finds out sooner whether its
/// agent is there.
const PACE: Pace = Pace {
    interval: Duration::from_secs(50),
    timeout: Duration::from_secs(20),
    in_use: Duration::from_secs(5),
};
/// Calls whose token the control plane is being asked about: with one token, an agent's first calls; on a
/// connection on which nobody is known yet, those of a few agents of a load balancer; on any other.
const MAX_ASKING_PER_TOKEN: usize = 8;
const MAX_ASKING_UNKNOWN: usize = 32;
const MAX_ASKING: usize = 256;
/// How long an agent is given to hear that its token is good no more.
const LAST_WORD: Duration = Duration::from_secs(2);
/// Age of connections that are never too old.
const AGELESS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Opened = Result<(Offer, Stream, Place), connect::Refused>;

/// A call of which it is not known yet who makes it. Nothing of its body is looked at.
struct Knock {
    method: Method,
    shown: Shown,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
}

/// Whose the token of a call is, asked of the control plane.
struct Asking {
    knock: Option<Knock>,
    token: TokenHash,
    asked: Task<Asked>,
}

type Asked = Result<Arc<AgentInfo>, Status>;

impl Future for Asking {
    type Output = (Knock, Asked);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let asked = std::task::ready!(self.asked.as_mut().poll(cx));
        match self.knock.take() {
            Some(knock) => Poll::Ready((knock, asked)),
            None => Poll::Pending,
        }
    }
}

struct Connection {
    api: Arc<AgentApi>,
    http2: ServerConnection<ByteStream>,
    native: bool,
    peer: SocketAddr,
    dialled: Option<Arc<Dialled>>,
    /// Those who have shown a good token.
    callers: Callers,
    /// Calls of which it is not known yet who makes them.
    asking: FuturesUnordered<Asking>,
    /// Whether the control plane is asked again about all, and is to be once more.
    rechecking: Option<bool>,
    /// Tunnels whose descriptor has not come yet.
    opening: FuturesUnordered<Task<Opened>>,
    idle: FuturesUnordered<Idle>,
    /// Calls that are no tunnels.
    calls: FuturesUnordered<Task<Done>>,
    pings: Option<Pings>,
    leaving: CancellationToken,
    phase: Phase,
    /// Agents of whom something idle stays for now.
    moving: usize,
    /// Held as long as tunnels may be idle.
    staying: Option<Working>,
    timer: Pin<Box<Sleep>>,
}

/// How something that ran on the connection ended.
#[derive(Debug)]
enum Done {
    /// As it should.
    Ended,
    /// The control plane was asked about all; these tokens are good no more.
    Rechecked(Vec<TokenHash>),
    /// An agent that was asked to leave needs its idle tunnels no more.
    Moved(AgentId),
}

/// Where the connection stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody has shown a good token yet; the timer fires when that takes too long.
    Unknown,
    /// It is used; the timer fires when it is old.
    Used,
    /// The replica drains; the timer fires when its turn comes.
    InLine,
    /// The agent was asked to leave; what is idle goes when it is elsewhere.
    Moving,
    /// Nothing is idle; the timer fires when calls in progress have had their time.
    Finishing,
}

/// Serves the connection to its end.
pub(super) async fn serve(
    api: Arc<AgentApi>,
    accepted: Accepted,
    dialled: Option<Arc<Dialled>>,
    drain: Drain,
) {
    // Nobody on the way sees the streams of one that was dialled.
    let native = matches!(accepted.scheme, Scheme::Grpc | Scheme::Grpcs) && dialled.is_none();
    let peer = accepted.peer;
    let mut io = accepted.io;
    let heard = io.heard();
    let handshake =
        Box::pin(runtime::grpc::unknown(runtime::grpc::server_settings()).handshake(io));
    let http2 = match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(http2)) => http2,
        Ok(Err(error)) => {
            return tracing::debug!(%error, %peer, "an agent's connection did not begin with HTTP/2");
        }
        Err(_) => return tracing::debug!(%peer, "an agent's connection was silent"),
    };
    api.metrics.connections.inc();
    tracing::debug!(%peer, scheme = ?accepted.scheme, "an agent's connection opened");
    let metrics = api.metrics.clone();
    let connection = Connection::new(api, http2, heard, native, peer, dialled);
    connection.run(drain).await;
    metrics.connections.dec();
    tracing::debug!(%peer, "an agent's connection closed");
}

impl Connection {
    fn new(
        api: Arc<AgentApi>,
        mut http2: ServerConnection<ByteStream>,
        heard: Heard,
        native: bool,
        peer: SocketAddr,
        dialled: Option<Arc<Dialled>>,
    ) -> Self {
        let (phase, time) = match dialled {
            None => (Phase::Unknown, UNKNOWN_TIMEOUT),
            // The agent could not make another.
            Some(_) => (Phase::Used, AGELESS),
        };
        let pings = http2
            .ping_pong()
            .map(|pings| Pings::new(pings, heard, PACE, rand::random()));
        Self {
            staying: Some(api.stays()),
            api,
            http2,
            native,
            peer,
            dialled,
            callers: Callers::default(),
            asking: FuturesUnordered::new(),
            rechecking: None,
            opening: FuturesUnordered::new(),
            idle: FuturesUnordered::new(),
            calls: FuturesUnordered::new(),
            pings,
            leaving: CancellationToken::new(),
            phase,
            moving: 0,
            timer: Box::pin(tokio::time::sleep(time)),
        }
    }

    async fn run(mut self, drain: Drain) {
        let mut revision = self.api.control_plane.revision();
        loop {
            tokio::select! {
                accepted = self.http2.accept() => match accepted {
                    Some(Ok((request, respond))) => self.dispatch(request, respond, &drain),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "an agent's connection broke");
                        return;
                    }
                    None => return,
                },
                Some((knock, asked)) = self.asking.next(), if !self.asking.is_empty() => self.admit(knock, asked, &drain),
                Some(opened) = self.opening.next(), if !self.opening.is_empty() => self.park(opened),
                Some(end) = self.idle.next(), if !self.idle.is_empty() => match end {
                    IdleEnd::Taken => self.probe(),
                    IdleEnd::Lost => {
                        self.api.metrics.tunnels_lost.inc();
                    }
                },
                Some(done) = self.calls.next(), if !self.calls.is_empty() => match done {
                    Done::Ended => {}
                    Done::Rechecked(revoked) => self.rechecked(&revoked),
                    Done::Moved(agent) => self.moved(agent),
                },
                () = unanswered(&mut self.pings) => {
                    tracing::info!("an agent does not answer pings; its connection is closed");
                    return;
                }
                () = &mut self.timer => match self.phase {
                    Phase::Unknown => {
                        tracing::debug!("nobody has shown a good token on a connection; it is closed");
                        self.end();
                    }
                    Phase::Used | Phase::InLine => self.leave(drain.started()),
                    Phase::Moving => self.finish(),
                    Phase::Finishing => return,
                },
                () = drain.wait(), if matches!(self.phase, Phase::Unknown | Phase::Used) => self.queue(),
                () = asked_to_leave(self.dialled.as_deref()), if self.phase == Phase::Used => self.leave(false),
                Ok(()) = revision.changed() => self.recheck(),
            }
        }
    }

    /// Looks at who makes a call, and at nothing else of it.
    fn dispatch(&mut self, request: Request<h2::RecvStream>, respond: SendResponse, drain: &Drain) {
        let directions = &self.api.settings.directions;
        let Some(respond) = runtime::grpc::turn_away(&request, respond, directions) else {
            return;
        };
        let method = match Method::of(request.uri().path(), &self.api.settings) {
            Ok(method) => method,
            Err(status) => return self.api.refuse(respond, &status, "call"),
        };
        let shown = match Shown::read(request.headers()) {
            Ok(shown) => shown,
            Err(status) => return self.api.refuse(respond, &status, method.name()),
        };
        let (api, token, from) = (self.api.clone(), shown.token.clone(), self.peer.ip());
        let mut asking = Asking {
            token: shown.hash,
            asked: Box::pin(async move { api.authenticator.agent(&token, from).await }),
            knock: Some(Knock {
                method,
                shown,
                request,
                respond,
            }),
        };
        // Whoever is remembered needs no place among those who are asked about.
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready((knock, asked)) = Pin::new(&mut asking).poll(&mut cx) {
            return self.admit(knock, asked, drain);
        }
        if self.may_ask(&asking.token) {
            return self.asking.push(asking);
        }
        if let Some(Knock { respond, .. }) = asking.knock {
            let status =
                Status::resource_exhausted("too many calls with tokens that are not known yet");
            self.api.refuse(respond, &status, method.name());
        }
    }

    fn may_ask(&self, token: &TokenHash) -> bool {
        if self.callers.find(token).is_some() {
            return true;
        }
        let limit = if self.callers.is_empty() {
            MAX_ASKING_UNKNOWN
        } else {
            MAX_ASKING
        };
        let same = self.asking.iter().filter(|it| it.token == *token);
        self.asking.len() < limit && same.count() < MAX_ASKING_PER_TOKEN
    }

    /// Lets a call in whose token is good.
    fn admit(&mut self, knock: Knock, asked: Asked, drain: &Drain) {
        let Knock {
            method,
            shown,
            request,
            respond,
        } = knock;
        let checked = self.dialled.as_ref().map_or(Ok(()), |it| it.check(&asked));
        let token = shown.hash;
        let known = checked.and(asked).and_then(|agent| self.know(shown, agent));
        let known = match known {
            Ok(known) => known,
            Err(status) => {
                if authenticate::is_refusal(&status) {
                    self.revoke(&token);
                }
                return self.api.refuse(respond, &status, method.name());
            }
        };
        let place = match method {
            Method::Connect => known.caller.tunnel(),
            _ => known.caller.call(),
        };
        match place {
            Ok(place) => self.begin(method, known, place, request, respond, drain),
            Err(status) => self.api.refuse(respond, &status, method.name()),
        }
    }

    /// Who has shown a good token; the connection is one of an agent from then on.
    fn know(&mut self, shown: Shown, agent: Arc<AgentInfo>) -> Result<Known, Status> {
        if let Some(caller) = self.callers.find(&shown.hash)
            && caller.agent == agent.id
        {
            let caller = caller.clone();
            return Ok(Known { caller, agent });
        }
        self.api.authenticator.connected(shown.hash)?;
        let caller = Caller::new(shown, agent.id, self.leaving.child_token());
        let first = self.callers.is_empty();
        self.callers.add(caller.clone())?;
        if first {
            runtime::grpc::welcome(&mut self.http2);
        }
        if self.phase == Phase::Unknown {
            self.phase = Phase::Used;
            self.postpone(jittered(self.api.settings.max_connection_age));
        }
        Ok(Known { caller, agent })
    }

    /// Begins to serve a call of somebody who is known.
    fn begin(
        &mut self,
        method: Method,
        known: Known,
        place: Place,
        request: Request<h2::RecvStream>,
        respond: SendResponse,
        drain: &Drain,
    ) {
        let (api, native) = (self.api.clone(), self.native);
        let served: Task<()> = match method {
            Method::Connect => {
                let opened = connect::open(api, known, place, request, respond);
                return self.opening.push(Box::pin(opened));
            }
            Method::GetConfiguration => {
                Box::pin(configuration::serve(api, known, request, respond, native))
            }
            Method::ReconcileProjects => {
                let Some(flux) = api.settings.flux.clone() else {
                    return;
                };
                Box::pin(flux::serve(api, known, flux, request, respond, native))
            }
            Method::Register | Method::Unregister | Method::Report => {
                Box::pin(unary(api, method, known, request, respond))
            }
            Method::Attach => Box::pin(attach(
                Relay {
                    api,
                    dialled: self.dialled.clone(),
                    drain: drain.clone(),
                    peer: self.peer,
                },
                known,
                request,
                respond,
            )),
        };
        self.calls.push(Box::pin(async move {
            served.await;
            drop(place);
            Done::Ended
        }));
    }

    fn park(&mut self, opened: Opened) {
        match opened {
            Ok((_, stream, place)) if place.caller.is_revoked() => {
                let status = Status::unauthenticated("unauthenticated");
                self.api.refuse(stream.respond, &status, "Connect");
            }
            Ok((offer, stream, place)) => {
                self.api.metrics.tunnels_opened.inc();
                let watch = self.api.registry.park(offer, stream);
                place.caller.opened(watch.cutter());
                let mut idle = Idle::new(watch, place, self.native);
                if matches!(self.phase, Phase::Moving | Phase::Finishing) {
                    idle.retire();
                }
                self.idle.push(idle);
            }
            Err((respond, status)) => self.api.refuse(respond, &status, "Connect"),
        }
    }

    /// A call has begun: whether the agent is still there should show soon.
    fn probe(&mut self) {
        if let Some(pings) = &mut self.pings {
            pings.probe();
        }
    }

    /// Waits for the connection's turn to leave a replica that drains.
    fn queue(&mut self) {
        if self.callers.is_empty() && self.dialled.is_none() {
            return self.end();
        }
        self.phase = Phase::InLine;
        let turn = Instant::now() + self.api.turn();
        self.timer.as_mut().reset(turn);
    }

    /// Asks the agent to leave. Its idle tunnels end in order, so that it opens
    /// others at once, elsewhere; one stays for calls until then.
    fn leave(&mut self, drains: bool) {
        self.http2.graceful_shutdown();
        self.leaving.cancel();
        let (ends, staying) = leaving::choose(self.idle.iter().map(Idle::agent));
        for (idle, _) in self.idle.iter_mut().zip(ends).filter(|(_, end)| *end) {
            idle.retire();
        }
        self.phase = Phase::Moving;
        self.moving = staying.len();
        // Whoever watches an agent's move has a deadline of its own.
        self.postpone(2 * self.api.settings.leaving.elsewhere);
        for staying in staying {
            let moved = leaving::moved(self.api.clone(), staying, drains);
            self.calls.push(Box::pin(async move {
                moved.await;
                Done::Moved(staying.agent)
            }));
        }
        if self.moving == 0 {
            self.finish();
        }
    }

    /// Ends what is idle of an agent that is elsewhere.
    fn moved(&mut self, agent: AgentId) {
        for idle in self.idle.iter_mut().filter(|idle| idle.agent() == agent) {
            idle.retire();
        }
        self.moving = self.moving.saturating_sub(1);
        if self.moving == 0 && self.phase == Phase::Moving {
            self.finish();
        }
    }

    /// Ends what is idle, and gives calls in progress their time.
    fn finish(&mut self) {
        for idle in &mut self.idle {
            idle.retire();
        }
        self.phase = Phase::Finishing;
        self.staying = None;
        self.postpone(self.api.settings.max_connection_age / 2);
    }

    fn postpone(&mut self, time: Duration) {
        self.timer.as_mut().reset(Instant::now() + time);
    }

    /// Asks again who may be here, now that the control plane has changed.
    fn recheck(&mut self) {
        if self.rechecking.is_some() {
            self.rechecking = Some(true);
            return;
        }
        self.rechecking = Some(false);
        let (api, shown, from) = (self.api.clone(), self.callers.shown(), self.peer.ip());
        self.calls.push(Box::pin(async move {
            Done::Rechecked(api.authenticator.revoked(shown, from).await)
        }));
    }

    fn rechecked(&mut self, revoked: &[TokenHash]) {
        for token in revoked {
            self.revoke(token);
        }
        if self.rechecking.take() == Some(true) {
            self.recheck();
        }
    }

    /// Lets nobody stay whose token is good no more: what they have is ended, and nothing of others. The
    /// connection ends when nobody is left.
    fn revoke(&mut self, token: &TokenHash) {
        let Some(caller) = self.callers.revoke(token) else {
            return;
        };
        tracing::info!(
            agent.id = caller.agent.0,
            "the token of a connected agent was revoked; its calls are ended"
        );
        if self.callers.is_empty() {
            self.end();
        }
    }

    /// Ends the connection: calls in progress are cut as soon as the other end was told.
    fn end(&mut self) {
        self.leave(false);
        self.finish();
        self.postpone(LAST_WORD);
    }
}

/// Serves a call of one message and one answer.
async fn unary(
    api: Arc<AgentApi>,
    method: Method,
    known: Known,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
) {
    let (head, mut stream) = request.into_parts();
    let headers = &head.headers;
    let answered = async {
        Ok(match method {
            Method::Register => {
                let asked = receive(headers, &mut stream, &registrar::REQUEST).await?;
                Frame::message(&registrar::register(&api, &known, asked)?)
            }
            Method::Unregister => {
                let asked = receive(headers, &mut stream, &registrar::REQUEST).await?;
                Frame::message(&registrar::unregister(&api, &known, &asked))
            }
            _ => {
                let events = api.settings.events.as_ref();
                let events = events.ok_or_else(|| Status::unimplemented("no events are taken"))?;
                let _place = collector::place(&api, known.agent.id)?;
                let asked = receive(headers, &mut stream, &collector::REPORT).await?;
                Frame::message(&collector::report(&known, events, asked).await)
            }
        })
    };
    let answered: Result<Frame, Status> = answered.await;
    match answered {
        // An agent that is gone needs no answer.
        Ok(frame) => drop(answer(respond, frame)),
        Err(status) => api.refuse(respond, &status, method.name()),
    }
}

/// Carries the bytes of another pod's connection.
async fn attach(
    relay: Relay,
    known: Known,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
) {
    let mut service = ReceptiveServer::new(relay).max_decoding_message_size(relay::MAX_CHUNK_BYTES);
    let served = runtime::grpc::serve(&mut service, request, respond);
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(%error, "a pod that carried another's connection left");
        },
        () = known.caller.revoked() => {}
    }
}

async fn asked_to_leave(dialled: Option<&Dialled>) {
    match dialled {
        Some(dialled) => dialled.left().await,
        None => std::future::pending().await,
    }
}

async fn unanswered(pings: &mut Option<Pings>) {
    match pings {
        Some(pings) => pings.unanswered().await,
        None => std::future::pending().await,
    }
}

impl AgentApi {
    /// Refuses a call, and says so in the log.
    pub(super) fn refuse(&self, respond: SendResponse, status: &Status, call: &'static str) {
        if status.code() == tonic::Code::Unauthenticated {
            self.metrics.unauthenticated.inc();
        }
        static REFUSED: Repeats = Repeats::new("refused an agent's call");
        if REFUSED.admit() {
            let reason = Untrusted(status.message());
            tracing::info!(code = ?status.code(), %reason, call, "refused an agent's call");
        }
        // An agent that is gone needs no answer.
        let _ = runtime::grpc::refuse(respond, status);
    }
}
