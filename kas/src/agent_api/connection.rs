//! One connection of an agent, or of a load balancer that carries several.
//!
//! The connection's task drives HTTP/2 and everything parked on it. Calls in
//! progress belong to the requests that make them; they only need this task to
//! move their bytes.

mod calls;
mod door;
mod life;

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::Request;
use router::{
    AgentId,
    tunnel::{IdleEnd, Offer, Stream},
};
use runtime::{
    drain::{Drain, Working},
    grpc::{Pace, Pings, SendResponse, ServerConnection, UNKNOWN_TIMEOUT},
    io::{ByteStream, Heard},
    listen::{Accepted, Scheme},
};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    AgentApi,
    caller::{Callers, Known, Place},
    configuration, connect,
    dialled::Dialled,
    flux,
    idle::Idle,
    method::Method,
    relay::Relay,
};
use crate::control_plane::TokenHash;
use calls::{attach, unary};
use door::Asking;
use life::Phase;

/// How long the HTTP/2 handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pings, as GitLab's kas sends them; but a call finds out sooner whether its
/// agent is there.
const PACE: Pace = Pace {
    interval: Duration::from_secs(50),
    timeout: Duration::from_secs(20),
    in_use: Duration::from_secs(5),
};
/// Age of connections that are never too old.
const AGELESS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Opened = Result<(Offer, Stream, Place), connect::Refused>;

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
