//! One connection of an agent, or of a load balancer that carries several.
//!
//! The connection's task drives HTTP/2 and everything parked on it. Calls in
//! progress belong to the requests that make them; they only need this task to
//! move their bytes.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::Request;
use proto::agent::agent_registrar::rpc::agent_registrar_server::AgentRegistrarServer;
use router::tunnel::{IdleEnd, Offer, Stream};
use runtime::{
    drain::Drain,
    grpc::{SendResponse, ServerConnection},
    io::ByteStream,
    listen::{Accepted, Scheme},
};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Status, codec::CompressionEncoding};

use super::{
    AgentApi, authenticate::Shown, configuration, connect, idle::Idle, pings::Pings,
    registrar::Registrar,
};

/// How long the HTTP/2 handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Tunnels that one connection may carry, as agentk's pool has at most.
const MAX_TUNNELS: usize = 500;
/// Calls other than tunnels that one connection may have in progress.
const MAX_CALLS: usize = 400;
/// How long the last idle tunnel is kept for calls while the agent connects anew.
const LAST_TUNNEL: Duration = Duration::from_secs(2);

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Opened = Result<(Offer, Stream), connect::Refused>;

struct Connection {
    api: Arc<AgentApi>,
    http2: ServerConnection<ByteStream>,
    native: bool,
    shown: Shown,
    /// Tunnels whose descriptor has not come yet.
    opening: FuturesUnordered<Task<Opened>>,
    idle: FuturesUnordered<Idle>,
    /// Calls that are no tunnels.
    calls: FuturesUnordered<Task<Done>>,
    pings: Option<Pings>,
    leaving: CancellationToken,
    next: Phase,
    timer: Pin<Box<Sleep>>,
}

/// How something that ran on the connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// As it should.
    Ended,
    /// A token turned out to be good no more.
    Revoked,
}

/// What happens to the connection when its timer fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It is old: ask the agent to leave.
    Leave,
    /// Most tunnels are gone; end the rest.
    Clear,
    /// The time for calls in progress is over: cut it.
    Cut,
}

/// Serves the connection to its end.
pub(super) async fn serve(api: Arc<AgentApi>, accepted: Accepted, drain: Drain) {
    let native = matches!(accepted.scheme, Scheme::Grpc | Scheme::Grpcs);
    let peer = accepted.peer;
    let handshake = Box::pin(runtime::grpc::server_settings().handshake(accepted.io));
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
    Connection::new(api, http2, native).run(drain).await;
    metrics.connections.dec();
    tracing::debug!(%peer, "an agent's connection closed");
}

impl Connection {
    fn new(api: Arc<AgentApi>, mut http2: ServerConnection<ByteStream>, native: bool) -> Self {
        let age = jittered(api.settings.max_connection_age);
        let pings = http2
            .ping_pong()
            .map(|pings| Pings::new(pings, rand::random()));
        Self {
            api,
            http2,
            native,
            shown: Shown::default(),
            opening: FuturesUnordered::new(),
            idle: FuturesUnordered::new(),
            calls: FuturesUnordered::new(),
            pings,
            leaving: CancellationToken::new(),
            next: Phase::Leave,
            timer: Box::pin(tokio::time::sleep(age)),
        }
    }

    async fn run(mut self, drain: Drain) {
        let mut revision = self.api.control_plane.revision();
        loop {
            tokio::select! {
                accepted = self.http2.accept() => match accepted {
                    Some(Ok((request, respond))) => self.dispatch(request, respond),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "an agent's connection broke");
                        return;
                    }
                    None => return,
                },
                Some(opened) = self.opening.next(), if !self.opening.is_empty() => self.park(opened),
                Some(end) = self.idle.next(), if !self.idle.is_empty() => {
                    if end == IdleEnd::Lost {
                        self.api.metrics.tunnels_lost.inc();
                    }
                }
                Some(done) = self.calls.next(), if !self.calls.is_empty() => {
                    if done == Done::Revoked {
                        self.evict();
                    }
                }
                () = unanswered(&mut self.pings) => {
                    tracing::info!("an agent does not answer pings; its connection is closed");
                    return;
                }
                () = &mut self.timer => if self.advance() { return },
                () = drain.wait(), if self.next == Phase::Leave => self.leave(),
                Ok(()) = revision.changed() => self.recheck(),
            }
        }
    }

    fn dispatch(&mut self, request: Request<h2::RecvStream>, respond: SendResponse) {
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
            path if path.starts_with("/gitlab.agent.agent_registrar.rpc.AgentRegistrar/") => {
                let mut service = AgentRegistrarServer::new(Registrar { api, shown })
                    .accept_compressed(CompressionEncoding::Gzip);
                self.calls.push(Box::pin(async move {
                    if let Err(error) = runtime::grpc::serve(&mut service, request, respond).await {
                        tracing::debug!(%error, "an agent left during a call");
                    }
                    Done::Ended
                }));
            }
            path => {
                let status = unknown(path);
                self.api.refuse(respond, &status, "call");
            }
        }
    }

    fn park(&mut self, opened: Opened) {
        match opened {
            Ok((offer, stream)) => {
                self.api.metrics.tunnels_opened.inc();
                let watch = self.api.registry.park(offer, stream);
                self.idle.push(Idle::new(watch, self.native));
                if self.next != Phase::Leave {
                    self.retire_idle(0);
                }
            }
            Err((respond, status)) => self.api.refuse(respond, &status, "Connect"),
        }
    }

    /// Does what the timer is for; true when the connection is to be cut.
    fn advance(&mut self) -> bool {
        match self.next {
            Phase::Leave => self.leave(),
            Phase::Clear => {
                self.retire_idle(0);
                self.next = Phase::Cut;
                let grace = self.api.settings.max_connection_age / 2;
                self.timer.as_mut().reset(Instant::now() + grace);
            }
            Phase::Cut => return true,
        }
        false
    }

    /// Asks the agent to leave. Its idle tunnels end in order, so that it opens
    /// others at once, elsewhere; one stays for calls until those are there.
    fn leave(&mut self) {
        self.http2.graceful_shutdown();
        self.leaving.cancel();
        self.retire_idle(1);
        self.next = Phase::Clear;
        self.timer.as_mut().reset(Instant::now() + LAST_TUNNEL);
    }

    fn retire_idle(&self, keep: usize) {
        for idle in self.idle.iter().skip(keep) {
            idle.retire(&Status::ok(""));
        }
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
        self.leave();
        self.retire_idle(0);
        self.next = Phase::Cut;
        self.timer.as_mut().reset(Instant::now() + LAST_TUNNEL);
    }
}

async fn unanswered(pings: &mut Option<Pings>) {
    match pings {
        Some(pings) => pings.unanswered().await,
        None => std::future::pending().await,
    }
}

fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.1 * rand::random::<f64>())
}

/// grpc-go's texts for methods that a server does not have.
fn unknown(path: &str) -> Status {
    let (service, method) = path
        .trim_start_matches('/')
        .rsplit_once('/')
        .unwrap_or((path, ""));
    match service {
        "gitlab.agent.reverse_tunnel.rpc.ReverseTunnel"
        | "gitlab.agent.agent_configuration.rpc.AgentConfiguration" => {
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
        tracing::info!(code = ?status.code(), reason = status.message(), call, "refused an agent's call");
        // An agent that is gone needs no answer.
        let _ = runtime::grpc::refuse(respond, status);
    }
}
