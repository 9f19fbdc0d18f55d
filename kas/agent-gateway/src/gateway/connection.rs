//! One connection of an agent, or of a load balancer that carries those of several.
//!
//! The connection's task drives HTTP/2, and keeps the idle tunnels. Calls through tunnels belong to the requests
//! that make them; they only need this task to move their bytes.

mod admission;
mod lifecycle;
mod runner;
mod work;

use std::{
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use cluster_state::ClusterUid;
use futures_util::{StreamExt, stream::FuturesUnordered};
use router::tunnel::IdleEnd;
use runtime::{
    drain::{Drain, Working},
    grpc::{AUTHENTICATION_TIMEOUT, Keepalive, KeepaliveOptions, SendResponse, ServerConnection},
    io::{ByteStream, Heard},
    listen::{Accepted, Scheme},
    serve::http2,
};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{Span, field};

use super::{
    AgentGateway,
    caller::{Callers, OpenTunnel},
    clusters::Admission,
    connections::OpenConnection,
    dialled::DialledConnection,
    idle_tunnel::IdleTunnel,
    service::{self, Nested, Opened, Opening},
};
use admission::Authenticating;
use lifecycle::Phase;
use runner::Runners;
use work::{Done, Work};

use crate::tracker::{End, Origin};

/// HTTP/2 pings, as GitLab's kas sends them; but a call finds out sooner whether its agent is there.
const PING_PACE: KeepaliveOptions = KeepaliveOptions {
    interval: Duration::from_secs(50),
    timeout: Duration::from_secs(20),
    in_use: Duration::from_secs(5),
};
/// The age of a dialled connection, which the agent could not make again: none that is ever reached.
const DIALLED_CONNECTION_AGE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

struct Connection {
    gateway: Arc<AgentGateway>,
    /// Its place among those with a valid token.
    open: Option<OpenConnection>,
    http2: ServerConnection<ByteStream>,
    /// `None` where nobody on the way looks for silent streams.
    silence: Option<Duration>,
    origin: Arc<Origin>,
    /// `None` if the agent has dialled.
    dialled: Option<Arc<DialledConnection>>,
    nested: Option<Nested>,
    /// Those whose tokens are valid.
    callers: Callers,
    authenticating: FuturesUnordered<Authenticating>,
    /// Whether the control plane is being asked about all tokens again, and must be once more after that.
    reauthenticating: Option<bool>,
    /// Tunnels whose descriptor has not come yet.
    opening: FuturesUnordered<Opening>,
    idle: FuturesUnordered<IdleTunnel>,
    work: FuturesUnordered<Work>,
    pings: Option<Keepalive>,
    /// Ends the streams of all callers.
    streams_end: CancellationToken,
    /// Those who ask for jobs.
    runners: Runners,
    phase: Phase,
    /// Calls that were begun on it.
    calls: u64,
    /// Agents whose last idle tunnel is kept for now.
    moving: usize,
    /// Held as long as tunnels may be idle.
    holds_tunnels: Option<Working>,
    timer: Pin<Box<Sleep>>,
    /// `agent_connection`. Entered where something is decided, and not for each poll: that would cost each request.
    span: Span,
}

/// Serves the connection to its end.
///
/// Not an async function: the future of one holds its arguments, and what it has begun with, to its end.
pub(super) fn serve(
    gateway: Arc<AgentGateway>,
    accepted: Accepted,
    dialled: Option<Arc<DialledConnection>>,
    drain: Drain,
) -> impl Future<Output = ()> + Send {
    let begun = Box::pin(begin(gateway, accepted, dialled, drain.clone()));
    async move {
        let begun = begun.await;
        if let Some(connection) = begun {
            connection.run(drain).await;
        }
    }
}

/// Begins with HTTP/2.
async fn begin(
    gateway: Arc<AgentGateway>,
    accepted: Accepted,
    dialled: Option<Arc<DialledConnection>>,
    drain: Drain,
) -> Option<Box<Connection>> {
    // Of a connection that was dialled they see one stream as a rule, which carries it and its pings.
    let native = match &dialled {
        None => matches!(accepted.scheme, Scheme::Grpc | Scheme::Grpcs),
        Some(dialled) => dialled.is_seen(),
    };
    let remote_addr = accepted.remote_addr;
    let origin = Origin::new(remote_addr, accepted.scheme);
    // The agent is the first whose token is valid. Lines about another, on the connection of a load balancer, name it.
    let span = tracing::info_span!("agent_connection", %remote_addr, agent.id = field::Empty);
    let begun = http2::handshake(accepted.io, runtime::grpc::server_settings()).await;
    let (http2, heard) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            tracing::debug!(parent: &span, %error, "agent connection did not begin with HTTP/2");
            return None;
        }
    };
    tracing::debug!(parent: &span, scheme = ?accepted.scheme, "agent connection opened");
    let setup = Setup {
        silence: native.then_some(gateway.settings.stream_renewal_interval),
        nested: nested(&gateway, dialled.as_ref(), remote_addr, &drain),
        gateway,
        origin,
        dialled,
        span,
    };
    Some(Box::new(Connection::new(setup, http2, heard)))
}

/// What a connection is from its beginning.
struct Setup {
    gateway: Arc<AgentGateway>,
    origin: Arc<Origin>,
    dialled: Option<Arc<DialledConnection>>,
    silence: Option<Duration>,
    nested: Option<Nested>,
    span: Span,
}

/// Serves connections of other pods that come inside one that was dialled; `None` if it came inside another itself.
fn nested(
    gateway: &Arc<AgentGateway>,
    dialled: Option<&Arc<DialledConnection>>,
    remote_addr: SocketAddr,
    drain: &Drain,
) -> Option<Nested> {
    let carrier = dialled.filter(|it| it.is_direct())?.clone();
    let (gateway, drain) = (gateway.clone(), drain.clone());
    Some(Arc::new(move |io| {
        let accepted = Accepted {
            io,
            remote_addr,
            scheme: Scheme::Grpc,
        };
        let dialled = carrier.of_another_pod();
        drain.spawn(serve(
            gateway.clone(),
            accepted,
            Some(dialled),
            drain.clone(),
        ));
    }))
}

impl Connection {
    fn new(setup: Setup, mut http2: ServerConnection<ByteStream>, heard: Heard) -> Self {
        let Setup {
            gateway,
            origin,
            dialled,
            silence,
            nested,
            span,
        } = setup;
        let (phase, time) = match dialled {
            None => (Phase::Unauthenticated, AUTHENTICATION_TIMEOUT),
            Some(_) => (Phase::Active, DIALLED_CONNECTION_AGE),
        };
        gateway.metrics.connections.inc();
        let pings = http2
            .ping_pong()
            .map(|pings| Keepalive::new(pings, heard, PING_PACE, rand::random()));
        Self {
            holds_tunnels: Some(gateway.holds_tunnels()),
            gateway,
            open: None,
            http2,
            silence,
            origin,
            dialled,
            nested,
            callers: Callers::default(),
            authenticating: FuturesUnordered::new(),
            reauthenticating: None,
            opening: FuturesUnordered::new(),
            idle: FuturesUnordered::new(),
            work: FuturesUnordered::new(),
            pings,
            streams_end: CancellationToken::new(),
            runners: Runners::default(),
            phase,
            calls: 0,
            moving: 0,
            timer: Box::pin(tokio::time::sleep(time)),
            span,
        }
    }

    async fn run(mut self: Box<Self>, drain: Drain) {
        let mut notices = self.gateway.notices.subscribe();
        let mut revision = notices.borrow_and_update().revision;
        let span = self.span.clone();
        let mut drained = pin!(drain.wait());
        loop {
            // In this order: what HTTP/2 has read wakes the others before they are looked at, and what is rare comes
            // last. It ends with each read of the socket, so that the others get their turn.
            tokio::select! {
                biased;
                accepted = self.http2.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        self.calls += 1;
                        span.in_scope(|| self.dispatch(request, respond));
                    }
                    Some(Err(error)) => {
                        tracing::debug!(parent: &span, %error, "agent connection broke");
                        return self.closed();
                    }
                    None => return self.closed(),
                },
                Some((call, authenticated)) = self.authenticating.next(), if !self.authenticating.is_empty() => {
                    span.in_scope(|| self.admit(call, authenticated));
                }
                Some(opened) = self.opening.next(), if !self.opening.is_empty() => span.in_scope(|| self.park(opened)),
                Some(end) = self.idle.next(), if !self.idle.is_empty() => match end {
                    IdleEnd::Taken => self.probe(),
                    IdleEnd::Lost => {
                        self.gateway.metrics.tunnels_lost.inc();
                    }
                },
                Some(done) = self.work.next(), if !self.work.is_empty() => match done {
                    Done::Call => {}
                    Done::RunnerCall(good) => self.runner_served(good),
                    Done::Reauthenticated(revoked) => span.in_scope(|| self.reauthenticated(&revoked)),
                    Done::Moved(agent) => self.agent_moved(agent),
                    Done::Identified(tunnels) => span.in_scope(|| {
                        for open in tunnels {
                            self.park(Ok(open));
                        }
                    }),
                },
                () = unanswered(&mut self.pings) => {
                    self.origin.ends(End::SILENT);
                    tracing::info!(parent: &span, "HTTP/2 keepalive timed out; closing agent connection");
                    return;
                }
                () = &mut self.timer => match self.phase {
                    Phase::Unauthenticated => {
                        tracing::debug!(parent: &span, "no valid token in time; closing agent connection");
                        self.close();
                    }
                    Phase::Active | Phase::Queued => self.send_goaway(drain.started()),
                    Phase::Moving => self.finish(),
                    Phase::Finishing => return,
                },
                () = drained.as_mut(), if matches!(self.phase, Phase::Unauthenticated | Phase::Active) => self.queue_goaway(),
                () = given_up(self.dialled.as_deref()), if self.phase == Phase::Active => self.send_goaway(false),
                Ok(()) = notices.changed() => {
                    let told = *notices.borrow_and_update();
                    if std::mem::replace(&mut revision, told.revision) != told.revision {
                        self.reauthenticate();
                    }
                    let asked = self.open.as_ref().is_some_and(|it| it.number() <= told.leave);
                    if asked && self.phase == Phase::Active {
                        self.send_goaway(false);
                    }
                }
            }
        }
    }

    /// The other end has closed it, in order or not. One that was made for a single call, which is over, says nothing of the agent:
    /// agents keep theirs, with tunnels.
    fn closed(&self) {
        if self.calls == 1 && self.work.is_empty() {
            self.origin.ends(End::ONE_CALL);
        }
    }

    /// Keeps a tunnel for calls.
    fn park(&mut self, opened: Opened) {
        match opened {
            Ok(open) if open.permit.caller.is_revoked() => {
                let status = Status::unauthenticated("unauthenticated");
                self.refuse(open.stream.respond, &status, "Connect");
            }
            Ok(open) => self.admit_tunnel(open),
            Err((respond, status)) => self.refuse(respond, &status, "Connect"),
        }
    }

    /// Keeps a tunnel that leads to the agent's cluster.
    fn admit_tunnel(&mut self, open: OpenTunnel) {
        let admission = match self.gateway.settings.services.clusters() {
            Some(clusters) => clusters.admit(open),
            None => Admission::Use(open, None),
        };
        match admission {
            Admission::Use(open, cluster) => self.keep(open, cluster),
            Admission::Refuse(open, status) => {
                open.permit.ends(status.code());
                self.refuse(open.stream.respond, &status, "Connect");
            }
            Admission::Later(found) => self.work.push(Work::Identify(found)),
            Admission::Waits => {}
        }
    }

    fn keep(&mut self, open: OpenTunnel, cluster: Option<ClusterUid>) {
        let OpenTunnel {
            offer,
            stream,
            permit,
            ..
        } = open;
        self.gateway.metrics.tunnels_opened.inc();
        permit.received();
        permit.ends(Code::Ok);
        let watch = self.gateway.registry.park(offer, stream);
        permit.caller.opened(watch.cutter(), cluster);
        let mut idle = IdleTunnel::new(watch, permit, self.silence);
        if matches!(self.phase, Phase::Moving | Phase::Finishing) {
            idle.retire();
        }
        self.idle.push(idle);
    }

    fn refuse(&self, respond: SendResponse, status: &Status, method: &str) {
        if status.code() == Code::Unauthenticated {
            self.gateway.metrics.unauthenticated.inc();
        }
        service::refuse(respond, status, method);
    }

    /// A call has begun: it should show soon whether the agent is still there.
    fn probe(&mut self) {
        if let Some(pings) = &mut self.pings {
            pings.probe();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.gateway.metrics.connections.dec();
        tracing::debug!(parent: &self.span, "agent connection closed");
    }
}

async fn given_up(dialled: Option<&DialledConnection>) {
    match dialled {
        Some(dialled) => dialled.left().await,
        None => std::future::pending().await,
    }
}

async fn unanswered(pings: &mut Option<Keepalive>) {
    match pings {
        Some(pings) => pings.timed_out().await,
        None => std::future::pending().await,
    }
}
