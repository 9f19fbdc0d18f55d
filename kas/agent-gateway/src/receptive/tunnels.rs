//! Tunnels that kas opens to an agent, for the calls that the agent makes on kas.
//!
//! The form of GitLab's receptive agents, as far as it is known: kas opens `ReverseTunnel.Connect` streams *to* the
//! agent and says what can be called through them; the agent makes each of its calls on kas by one of them. What is
//! not in public sources was inferred: all of it is in here, and in the agent's `kas_tunnels`.
//!
//! The calls go on to a connection in memory, whose server is the agents' port: to it this is an agent that dialled.

mod carry;
mod slot;

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::Uri;
use proto::{
    agent::reverse_tunnel::rpc::{RequestInfo, connect_response::Msg},
    frame::Frame,
};
use runtime::{
    grpc::{self, Keepalive, KeepaliveOptions, MAX_STREAMS, SendRequest},
    io::ByteStream,
    tunnel::{Inbound, Outbound, Pool, TunnelError},
};
use tokio::io::DuplexStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status};

use super::{credentials::Credentials, dial_error::DialError, http2::Http2};

/// How long the first tunnel may be silent before it is taken for accepted.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes on their way between tunnels and the agents' port, in one direction.
const PIPE_BYTES: usize = 256 << 10;
/// Tunnels to one agent, idle or not: as many streams as the agent takes on a connection.
const MAX_TUNNELS: usize = MAX_STREAMS as usize;
/// Pings to the agent: no more often than Go's server suffers them (20 s).
const PINGS: KeepaliveOptions = KeepaliveOptions {
    interval: Duration::from_secs(25),
    timeout: Duration::from_secs(10),
    in_use: Duration::from_secs(10),
};

/// An agent that was dialled, and what it is shown.
pub(super) struct Agent {
    pub(super) requests: SendRequest,
    pub(super) origin: Uri,
    pub(super) credentials: Credentials,
    /// What the agent can call through tunnels, framed.
    pub(super) descriptor: Bytes,
    /// Whether load balancers on the way see its tunnels.
    pub(super) seen: bool,
}

/// The tunnels to an agent, of which the first is open.
pub(super) struct Tunnels {
    agent: Arc<Agent>,
    first: Tunnel,
}

/// An open tunnel.
struct Tunnel {
    inbound: Inbound,
    outbound: Outbound,
    /// The call that has come by it.
    info: Option<RequestInfo>,
}

/// What the tunnels of a connection share.
struct Shared {
    agent: Arc<Agent>,
    /// The agents' port.
    gateway: SendRequest,
    /// The agents' port takes no more calls.
    leaving: CancellationToken,
    /// The connection has ended.
    over: CancellationToken,
    pool: Mutex<Pool>,
    tasks: TaskTracker,
}

/// Opens the first tunnel.
pub(super) async fn open(agent: Arc<Agent>) -> Result<Tunnels, DialError> {
    let mut first = agent.open().await?;
    match tokio::time::timeout(ACCEPT_TIMEOUT, first.call()).await {
        Ok(Ok(())) | Err(_) => Ok(Tunnels { agent, first }),
        Ok(Err(error)) => Err(refused(error)),
    }
}

fn refused(error: TunnelError) -> DialError {
    let (TunnelError::Ended(status) | TunnelError::Broken(status) | TunnelError::Protocol(status)) =
        error;
    let status = match status.code() {
        Code::Ok => Status::unavailable("it ended the first tunnel at once"),
        _ => status,
    };
    DialError::Refused(Box::new(status))
}

impl Agent {
    async fn open(&self) -> Result<Tunnel, DialError> {
        let metadata = self.credentials.metadata()?;
        let (requests, descriptor) = (self.requests.clone(), self.descriptor.clone());
        let opened = runtime::tunnel::open(requests, &self.origin, metadata, descriptor).await;
        let (inbound, outbound) = opened.map_err(|status| DialError::Refused(Box::new(status)))?;
        Ok(Tunnel {
            inbound,
            outbound,
            info: None,
        })
    }
}

impl Tunnel {
    /// Waits for a call. Cancel-safe.
    async fn call(&mut self) -> Result<(), TunnelError> {
        if self.info.is_some() {
            return Ok(());
        }
        match self.inbound.next().await? {
            Some(Msg::RequestInfo(info)) => {
                self.info = Some(info);
                Ok(())
            }
            Some(Msg::Message(_) | Msg::CloseSend(_)) => unreachable!("the sequence was checked"),
            None => Err(TunnelError::Ended(Status::ok(""))),
        }
    }
}

impl Tunnels {
    /// Whether load balancers on the way see them.
    pub(super) fn are_seen(&self) -> bool {
        self.agent.seen
    }

    /// The connection on which the agent's calls come, and what carries them until one of its ends is gone.
    pub(super) async fn carry(
        self,
        http2: Http2,
    ) -> Result<(ByteStream, impl Future<Output = ()> + Send), DialError> {
        let (ours, gateways) = tokio::io::duplex(PIPE_BYTES);
        let handshake = grpc::client_settings().handshake(ours);
        let (gateway, pipe) = handshake.await.map_err(DialError::of_http2)?;
        let mut pool = Pool::new(0, MAX_TUNNELS);
        let count = pool.start();
        let shared = Arc::new(Shared {
            agent: self.agent,
            gateway: gateway.clone(),
            leaving: CancellationToken::new(),
            over: CancellationToken::new(),
            pool: Mutex::new(pool),
            tasks: TaskTracker::new(),
        });
        shared.spawn(Some(self.first));
        for _ in 1..count {
            shared.spawn(None);
        }
        Ok((
            ByteStream::boxed(gateways),
            drive(shared, http2, gateway, pipe),
        ))
    }
}

impl Shared {
    /// Keeps one more tunnel.
    fn spawn(self: &Arc<Self>, open: Option<Tunnel>) {
        let (shared, over) = (self.clone(), self.over.clone());
        self.tasks.spawn(async move {
            over.run_until_cancelled(slot::run(shared, open)).await;
        });
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn drive(
    shared: Arc<Shared>,
    mut http2: Http2,
    gateway: SendRequest,
    pipe: h2::client::Connection<DuplexStream, Frame>,
) {
    let _over = shared.over.clone().drop_guard();
    let pings = http2.connection.ping_pong();
    let mut pings = pings.map(|pings| Keepalive::new(pings, http2.heard, PINGS, rand::random()));
    let agent = poll_fn(|cx| {
        if let Some(pings) = &mut pings
            && pings.poll_timed_out(cx).is_ready()
        {
            tracing::info!("HTTP/2 keepalive timed out; closing connection to receptive agent");
            return Poll::Ready(());
        }
        Pin::new(&mut http2.connection).poll(cx).map(|ended| {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection to receptive agent broke");
            }
        })
    });
    let finished = async {
        shared.leaving.cancelled().await;
        shared.tasks.close();
        shared.tasks.wait().await;
    };
    tokio::select! {
        () = agent => {}
        () = drive_pipe(pipe, gateway, &shared.leaving) => {}
        () = finished => {}
    }
}

/// Drives the connection in memory, and says when it takes no more calls.
async fn drive_pipe(
    mut pipe: h2::client::Connection<DuplexStream, Frame>,
    gateway: SendRequest,
    leaving: &CancellationToken,
) {
    let mut probe = Some(gateway);
    poll_fn(|cx| {
        let polled = Pin::new(&mut pipe).poll(cx);
        if let Some(requests) = &mut probe
            && let Poll::Ready(Err(_)) = requests.poll_ready(cx)
        {
            probe = None;
            leaving.cancel();
        }
        polled.map(drop)
    })
    .await;
    leaving.cancel();
}
