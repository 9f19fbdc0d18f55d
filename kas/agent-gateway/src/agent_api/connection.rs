//! One connection of an agent, or of a load balancer that carries several.
//!
//! The connection's task drives HTTP/2 and everything parked on it. Calls in
//! progress belong to the requests that make them; they only need this task to
//! move their bytes.

mod door;
mod life;
mod work;

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use router::tunnel::IdleEnd;
use runtime::{
    drain::{Drain, Working},
    grpc::{Pace, Pings, SendResponse, ServerConnection, UNKNOWN_TIMEOUT},
    io::{ByteStream, Heard},
    listen::{Accepted, Scheme},
    serve::http2,
};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    AgentApi,
    caller::Callers,
    dialled::Dialled,
    idle::Idle,
    service::{self, Nested, Opened, Opening},
};
use door::Asking;
use life::Phase;
use work::{Done, Work};

/// Pings, as GitLab's kas sends them; but a call finds out sooner whether its
/// agent is there.
const PACE: Pace = Pace {
    interval: Duration::from_secs(50),
    timeout: Duration::from_secs(20),
    in_use: Duration::from_secs(5),
};
/// How long a native gRPC stream may be silent. Load balancers that take gRPC
/// apart cut silent streams, commonly after 60 s, and do not count HTTP/2
/// pings; nothing may be sent on an idle tunnel. So it is ended in order before
/// that, and the agent opens another at once. Inside WebSocket pings suffice.
const SILENCE: Duration = Duration::from_secs(45);
/// Age of connections that are never too old.
const AGELESS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Connection {
    api: Arc<AgentApi>,
    http2: ServerConnection<ByteStream>,
    /// How long streams may be silent; `None` where nobody on the way counts it.
    silence: Option<Duration>,
    remote_addr: SocketAddr,
    dialled: Option<Arc<Dialled>>,
    nested: Option<Nested>,
    /// Those who have shown a good token.
    callers: Callers,
    /// Calls of which it is not known yet who makes them.
    asking: FuturesUnordered<Asking>,
    /// Whether the control plane is asked again about all, and is to be once more.
    rechecking: Option<bool>,
    /// Tunnels whose descriptor has not come yet.
    opening: FuturesUnordered<Opening>,
    idle: FuturesUnordered<Idle>,
    work: FuturesUnordered<Work>,
    pings: Option<Pings>,
    leaving: CancellationToken,
    phase: Phase,
    /// Agents of whom something idle stays for now.
    moving: usize,
    /// Held as long as tunnels may be idle.
    staying: Option<Working>,
    timer: Pin<Box<Sleep>>,
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
    let remote_addr = accepted.remote_addr;
    let begun = http2::handshake(accepted.io, runtime::grpc::server_settings()).await;
    let (http2, heard) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            return tracing::debug!(%error, %remote_addr, "an agent's connection did not begin with HTTP/2");
        }
    };
    api.metrics.connections.inc();
    tracing::debug!(%remote_addr, scheme = ?accepted.scheme, "an agent's connection opened");
    let metrics = api.metrics.clone();
    let mut connection = Connection::new(api, http2, heard, remote_addr, dialled.clone());
    connection.silence = native.then_some(SILENCE);
    connection.nested = dialled.and_then(|it| connection.nested(&it, &drain));
    connection.run(drain).await;
    metrics.connections.dec();
    tracing::debug!(%remote_addr, "an agent's connection closed");
}

impl Connection {
    fn new(
        api: Arc<AgentApi>,
        mut http2: ServerConnection<ByteStream>,
        heard: Heard,
        remote_addr: SocketAddr,
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
            silence: None,
            remote_addr,
            dialled,
            nested: None,
            callers: Callers::default(),
            asking: FuturesUnordered::new(),
            rechecking: None,
            opening: FuturesUnordered::new(),
            idle: FuturesUnordered::new(),
            work: FuturesUnordered::new(),
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
                    Some(Ok((request, respond))) => self.dispatch(request, respond),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "an agent's connection broke");
                        return;
                    }
                    None => return,
                },
                Some((knock, asked)) = self.asking.next(), if !self.asking.is_empty() => self.admit(knock, asked),
                Some(opened) = self.opening.next(), if !self.opening.is_empty() => self.park(opened),
                Some(end) = self.idle.next(), if !self.idle.is_empty() => match end {
                    IdleEnd::Taken => self.probe(),
                    IdleEnd::Lost => {
                        self.api.metrics.tunnels_lost.inc();
                    }
                },
                Some(done) = self.work.next(), if !self.work.is_empty() => match done {
                    Done::Call => {}
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

    /// Serves connections of other pods that come inside this one, which was dialled; `None` if it came inside
    /// another itself.
    fn nested(&self, dialled: &Arc<Dialled>, drain: &Drain) -> Option<Nested> {
        let carrier = dialled.is_direct().then(|| dialled.clone())?;
        let (api, drain, remote_addr) = (self.api.clone(), drain.clone(), self.remote_addr);
        Some(Arc::new(move |io| {
            let accepted = Accepted {
                io,
                remote_addr,
                scheme: Scheme::Grpc,
            };
            let dialled = carrier.of_another_pod();
            drain.spawn(serve(api.clone(), accepted, Some(dialled), drain.clone()));
        }))
    }

    fn park(&mut self, opened: Opened) {
        match opened {
            Ok((_, stream, place)) if place.caller.is_revoked() => {
                let status = Status::unauthenticated("unauthenticated");
                self.refuse(stream.respond, &status, "Connect");
            }
            Ok((offer, stream, place)) => {
                self.api.metrics.tunnels_opened.inc();
                let watch = self.api.registry.park(offer, stream);
                place.caller.opened(watch.cutter());
                let mut idle = Idle::new(watch, place, self.silence);
                if matches!(self.phase, Phase::Moving | Phase::Finishing) {
                    idle.retire();
                }
                self.idle.push(idle);
            }
            Err((respond, status)) => self.refuse(respond, &status, "Connect"),
        }
    }

    fn refuse(&self, respond: SendResponse, status: &Status, method: &str) {
        if status.code() == tonic::Code::Unauthenticated {
            self.api.metrics.unauthenticated.inc();
        }
        service::refuse(respond, status, method);
    }

    /// A call has begun: whether the agent is still there should show soon.
    fn probe(&mut self) {
        if let Some(pings) = &mut self.pings {
            pings.probe();
        }
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
