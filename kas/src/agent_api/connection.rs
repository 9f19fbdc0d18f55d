//! One connection of an agent, or of a load balancer that carries several.
//!
//! The connection's task drives HTTP/2 and everything parked on it. Calls in
//! progress belong to the requests that make them; they only need this task to
//! move their bytes.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::Request;
use proto::{
    agent::agent_registrar::rpc::agent_registrar_server::AgentRegistrarServer,
    events::rpc::collector_server::CollectorServer,
    receptive::rpc::receptive_server::ReceptiveServer,
};
use router::{
    AgentId,
    tunnel::{IdleEnd, Offer, Stream},
};
use runtime::{
    backoff::jittered,
    drain::{Drain, Working},
    grpc::{Pace, Pings, SendResponse, ServerConnection},
    io::{ByteStream, Heard},
    listen::{Accepted, Scheme},
    telemetry::{Repeats, Untrusted},
};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Status, codec::CompressionEncoding};

use super::{
    AgentApi, authenticate::Shown, collector::Collector, configuration, connect, dialled::Dialled,
    flux, idle::Idle, leaving, registrar::Registrar, relay::Relay,
};
use crate::tracker::Registrations;

/// What those are told who are no agents.
const DIRECTIONS: &str = "This is the port of agents, for gRPC. The Kubernetes API is served at the address of \
    agent.kubernetes_api.listen (by default port 8154), under its url_path_prefix (by default /).";
/// How long the HTTP/2 handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pings, as GitLab's kas sends them; but a call finds out sooner whether its
/// agent is there.
const PACE: Pace = Pace {
    interval: Duration::from_secs(50),
    timeout: Duration::from_secs(20),
    in_use: Duration::from_secs(5),
};
/// Tunnels that one connection may carry, as agentk's pool has at most.
const MAX_TUNNELS: usize = 500;
/// Calls other than tunnels that one connection may have in progress.
const MAX_CALLS: usize = 400;
/// How long an agent is given to hear that its token is good no more.
const LAST_WORD: Duration = Duration::from_secs(2);
/// Age of connections that are never too old.
const AGELESS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

const RECONCILE_PROJECTS: &str = "/gitlab.agent.flux.rpc.GitLabFlux/ReconcileProjects";

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Opened = Result<(Offer, Stream), connect::Refused>;

struct Connection {
    api: Arc<AgentApi>,
    http2: ServerConnection<ByteStream>,
    native: bool,
    peer: SocketAddr,
    shown: Shown,
    registrations: Registrations,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// As it should.
    Ended,
    /// A token turned out to be good no more.
    Revoked,
    /// An agent that was asked to leave needs its idle tunnels no more.
    Moved(AgentId),
}

/// Where the connection stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
    let handshake = Box::pin(runtime::grpc::server_settings().handshake(io));
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
    let shown = Shown::new(peer.ip(), dialled);
    let connection = Connection::new(api, http2, heard, native, peer, shown);
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
        shown: Shown,
    ) -> Self {
        let age = match shown.dialled {
            None => jittered(api.settings.max_connection_age),
            // The agent could not make another.
            Some(_) => AGELESS,
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
            shown,
            registrations: Registrations::default(),
            opening: FuturesUnordered::new(),
            idle: FuturesUnordered::new(),
            calls: FuturesUnordered::new(),
            pings,
            leaving: CancellationToken::new(),
            phase: Phase::Used,
            moving: 0,
            timer: Box::pin(tokio::time::sleep(age)),
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
                Some(opened) = self.opening.next(), if !self.opening.is_empty() => self.park(opened),
                Some(end) = self.idle.next(), if !self.idle.is_empty() => match end {
                    IdleEnd::Taken => self.probe(),
                    IdleEnd::Lost => {
                        self.api.metrics.tunnels_lost.inc();
                    }
                },
                Some(done) = self.calls.next(), if !self.calls.is_empty() => match done {
                    Done::Ended => {}
                    Done::Revoked => self.evict(),
                    Done::Moved(agent) => self.moved(agent),
                },
                () = unanswered(&mut self.pings) => {
                    tracing::info!("an agent does not answer pings; its connection is closed");
                    return;
                }
                () = &mut self.timer => match self.phase {
                    Phase::Used | Phase::InLine => self.leave(drain.started()),
                    Phase::Moving => self.finish(),
                    Phase::Finishing => return,
                },
                () = drain.wait(), if self.phase == Phase::Used => self.queue(),
                () = asked_to_leave(&self.shown), if self.phase == Phase::Used => self.leave(false),
                Ok(()) = revision.changed() => self.recheck(),
            }
        }
    }

    fn dispatch(&mut self, request: Request<h2::RecvStream>, respond: SendResponse, drain: &Drain) {
        let Some(respond) = runtime::grpc::turn_away(&request, respond, DIRECTIONS) else {
            return;
        };
        let (api, shown) = (self.api.clone(), self.shown.clone());
        match request.uri().path() {
            "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect" => {
                if self.opening.len() + self.idle.len() >= MAX_TUNNELS {
                    let status = Status::resource_exhausted("too many tunnels on one connection");
                    return self.api.refuse(respond, &status, "Connect");
                }
                self.opening
                    .push(Box::pin(connect::open(api, request, respond, shown)));
            }
            _ if self.calls.len() >= MAX_CALLS => {
                let status = Status::resource_exhausted("too many calls on one connection");
                self.api.refuse(respond, &status, "call");
            }
            "/gitlab.agent.agent_configuration.rpc.AgentConfiguration/GetConfiguration" => {
                let leaving = self.leaving.clone();
                let served =
                    configuration::serve(api, request, respond, shown, leaving, self.native);
                self.calls.push(Box::pin(async move {
                    served.await;
                    Done::Ended
                }));
            }
            "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Register"
            | "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Unregister" => {
                let mut service = AgentRegistrarServer::new(Registrar {
                    api,
                    shown,
                    registrations: self.registrations.clone(),
                })
                .accept_compressed(CompressionEncoding::Gzip);
                self.calls.push(Box::pin(async move {
                    if let Err(error) = runtime::grpc::serve(&mut service, request, respond).await {
                        tracing::debug!(%error, "an agent left during a call");
                    }
                    Done::Ended
                }));
            }
            "/kas.receptive.rpc.Receptive/Attach" => {
                let mut service = ReceptiveServer::new(Relay {
                    api,
                    shown,
                    drain: drain.clone(),
                    peer: self.peer,
                });
                self.calls.push(Box::pin(async move {
                    if let Err(error) = runtime::grpc::serve(&mut service, request, respond).await {
                        tracing::debug!(%error, "a pod that carried another's connection left");
                    }
                    Done::Ended
                }));
            }
            RECONCILE_PROJECTS if let Some(flux) = self.api.settings.flux.clone() => {
                let leaving = self.leaving.clone();
                let served = flux::serve(api, flux, request, respond, shown, leaving, self.native);
                self.calls.push(Box::pin(async move {
                    served.await;
                    Done::Ended
                }));
            }
            path => match self.api.settings.events.clone() {
                Some(events) if path == "/kas.events.rpc.Collector/Report" => {
                    let service = Collector { api, shown, events };
                    self.collect(service, request, respond);
                }
                Some(_) | None => {
                    let status = unknown(path);
                    self.api.refuse(respond, &status, "call");
                }
            },
        }
    }

    fn collect(
        &mut self,
        service: Collector,
        request: Request<h2::RecvStream>,
        respond: SendResponse,
    ) {
        let mut service =
            CollectorServer::new(service).accept_compressed(CompressionEncoding::Gzip);
        self.calls.push(Box::pin(async move {
            if let Err(error) = runtime::grpc::serve(&mut service, request, respond).await {
                tracing::debug!(%error, "an agent left while it told of events");
            }
            Done::Ended
        }));
    }

    fn park(&mut self, opened: Opened) {
        match opened {
            Ok((offer, stream)) => {
                self.api.metrics.tunnels_opened.inc();
                let watch = self.api.registry.park(offer, stream);
                let mut idle = Idle::new(watch, self.native);
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
        let (api, shown) = (self.api.clone(), self.shown.clone());
        self.calls.push(Box::pin(async move {
            if api.authenticator.any_revoked(&shown).await {
                Done::Revoked
            } else {
                Done::Ended
            }
        }));
    }

    /// Lets nobody stay whose token is good no more: calls in progress are cut
    /// as soon as the agent was told.
    fn evict(&mut self) {
        tracing::info!("the token of a connected agent was revoked; its connection is closed");
        self.leave(false);
        self.finish();
        self.postpone(LAST_WORD);
    }
}

async fn asked_to_leave(shown: &Shown) {
    match &shown.dialled {
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

/// grpc-go's texts for methods that a server does not have.
fn unknown(path: &str) -> Status {
    let Some((service, method)) = path.trim_start_matches('/').rsplit_once('/') else {
        return Status::unimplemented(format!("malformed method name: {path:?}"));
    };
    match service {
        "gitlab.agent.reverse_tunnel.rpc.ReverseTunnel"
        | "gitlab.agent.agent_configuration.rpc.AgentConfiguration"
        | "gitlab.agent.agent_registrar.rpc.AgentRegistrar" => {
            Status::unimplemented(format!("unknown method {method} for service {service}"))
        }
        service => Status::unimplemented(format!("unknown service {service}")),
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
